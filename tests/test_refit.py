"""Constants fitted on whole steps: found where runs tell of them, left at their priors where they do not."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from benchmarks.constants import CONSTANTS, FACTORS, Constant
from benchmarks.leave_one_out import leave_one_out
from benchmarks.refit import SHARED, Table, fit, log_seconds, tabulate
from validate.runs.published import published_runs
from validate.score.training import settings_of, source_of

RUNS = published_runs("sequence_parallelism_table5")[:4]
"""The small ones, which take least to price."""
SETTINGS = settings_of(RUNS)[0]
COMPUTE = next(one for one in CONSTANTS if one.pooled)
HOST = CONSTANTS[0]
SLOT = (COMPUTE.name, COMPUTE.slot(SETTINGS[0]))


@pytest.fixture(scope="module")
def priced() -> Table:
    """The runs as if each had taken as long as predicted, each from a source of its own."""
    return tabulate(SETTINGS, np.exp(log_seconds(SETTINGS)).tolist(), [setting.run.id for setting in SETTINGS])


def test_a_constant_that_runs_tell_of_is_found(priced: Table) -> None:
    slower = [COMPUTE.scaled(setting, 0.85 / COMPUTE.value(setting)) for setting in SETTINGS]
    measured = np.exp(log_seconds(slower))
    found = fit(replace(priced, measured_seconds=measured), np.ones(len(SETTINGS), dtype=bool), with_spreads=True)
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


def test_runs_left_out_change_nothing(priced: Table) -> None:
    kept = np.arange(len(SETTINGS)) < 2
    table = replace(priced, sources=np.where(kept, "told", "silent"))
    other = replace(table, measured_seconds=table.measured_seconds * np.where(kept, 1.0, 3.0))
    assert fit(table, kept).values == fit(other, kept).values


def test_a_slot_without_runs_takes_what_its_kin_share(priced: Table) -> None:
    found = fit(replace(priced, sources=np.full(len(SETTINGS), "one")), np.ones(len(SETTINGS), dtype=bool))
    cluster = SETTINGS[0].cluster
    elsewhere = cluster.accelerator.model_copy(update={"name": "another"})
    moved = replace(SETTINGS[0], cluster=cluster.model_copy(update={"accelerator": elsewhere}))
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
    found = leave_one_out(RUNS)
    assert len(found.seconds) == len(RUNS)
    assert np.all(found.seconds > 0.0)
    assert set(found.fitted) == {source_of(setting.run) for setting in SETTINGS}
