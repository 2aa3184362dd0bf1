"""Constants fitted on whole steps: found where runs tell of them, left at their priors where they do not."""

from math import exp, log

import numpy as np
import pytest

from benchmarks.constants import CONSTANTS, FACTORS, Constant
from benchmarks.leave_one_out import leave_one_out
from benchmarks.refit import SHARED, fit, log_seconds, tabulate
from validate.runs.published import published_runs
from validate.score.training import settings_of, source_of

SETTINGS = settings_of(published_runs("sequence_parallelism_table5"))[0]
COMPUTE = next(one for one in CONSTANTS if one.pooled)
HOST = CONSTANTS[0]
SLOT = (COMPUTE.name, COMPUTE.slot(SETTINGS[0]))


def test_a_constant_that_runs_tell_of_is_found() -> None:
    slower = [COMPUTE.scaled(setting, 0.85 / COMPUTE.value(setting)) for setting in SETTINGS]
    measured = np.exp(log_seconds(slower))
    table = tabulate(SETTINGS, measured.tolist(), [setting.run.id for setting in SETTINGS])
    found = fit(table, np.ones(len(SETTINGS), dtype=bool), with_spreads=True)
    assert found.values[SLOT] == pytest.approx(0.85, rel=0.02)
    assert found.is_identified(SLOT)
    again = np.exp(log_seconds([found.applied(setting) for setting in SETTINGS]))
    assert again == pytest.approx(measured, rel=0.02)


def test_a_constant_that_no_run_tells_of_keeps_its_prior() -> None:
    table = tabulate(SETTINGS[-2:], np.exp(log_seconds(SETTINGS[-2:])).tolist(), ["one", "two"])
    found = fit(table, np.ones(2, dtype=bool), with_spreads=True)
    slot = (HOST.name, HOST.slot(SETTINGS[-1]))
    assert found.values[slot] == pytest.approx(HOST.prior(SETTINGS[-1]), rel=0.05)
    assert not found.is_identified(slot)


def test_runs_left_out_change_nothing() -> None:
    measured = np.exp(log_seconds(SETTINGS))
    sources = ["told"] * 4 + ["silent"] * 4
    table = tabulate(SETTINGS, measured.tolist(), sources)
    other = tabulate(SETTINGS, (measured * np.where(table.sources == "told", 1.0, 3.0)).tolist(), sources)
    kept = table.sources == "told"
    assert fit(table, kept).values == fit(other, kept).values


def test_a_slot_without_runs_takes_what_its_kin_share() -> None:
    table = tabulate(SETTINGS, np.exp(log_seconds(SETTINGS)).tolist(), ["one"] * 8)
    found = fit(table, np.ones(8, dtype=bool))
    elsewhere = SETTINGS[0].cluster.accelerator.model_copy(update={"name": "another"})
    setting = SETTINGS[0]
    moved = type(setting)(
        setting.run, setting.job, setting.cluster.model_copy(update={"accelerator": elsewhere}), setting.plan,
        setting.stack,
    )  # fmt: skip
    assert exp(found.level(COMPUTE, moved)) == pytest.approx(found.values[COMPUTE.name, SHARED])


@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda one: one.name.split()[0])
def test_a_multiple_of_one_changes_nothing_and_sources_are_stated(constant: Constant) -> None:
    having = [setting for setting in SETTINGS if constant.slot(setting) is not None]
    same = [constant.scaled(setting, 1.0) for setting in having]
    if having:
        assert log_seconds(same) == pytest.approx(log_seconds(having), abs=1e-12)
        assert all(constant.value(setting) > 0.0 for setting in having)
    assert constant.prior_source
    assert log(FACTORS[0]) < 0.0 < log(FACTORS[-1])


def test_every_run_is_predicted_without_its_source() -> None:
    found = leave_one_out(published_runs("sequence_parallelism_table5"))
    assert len(found.seconds) == 8
    assert np.all(found.seconds > 0.0)
    assert set(found.fitted) == {source_of(setting.run) for setting in SETTINGS}
