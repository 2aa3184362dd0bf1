"""What a source does not state must not raise a false alarm."""

from dataclasses import replace

from planner.plan import Recompute
from validate.runs.least import is_too_big, least_memory
from validate.runs.published import published_runs
from validate.runs.resolve import resolve
from validate.runs.table import Run

RUN = published_runs("sequence_parallelism_table5")[0]


def changed(**changes: object) -> Run:
    """The 22B run without recomputation in a longer sequence, with changes."""
    return replace(RUN, **{"recompute": "none", "seq_len": 4096, "sp": False, **changes})  # type: ignore[arg-type]


def test_a_stated_setting_decides() -> None:
    assert is_too_big(resolve(changed())) is True
    assert is_too_big(resolve(changed(recompute="full", seq_len=2048))) is False


def test_an_unstated_setting_leaves_a_run_undecided() -> None:
    setting = resolve(changed(recompute=""))
    assert setting.plan.recompute == Recompute.NONE
    assert is_too_big(setting) is None


def test_what_does_not_fit_in_any_reading_is_too_big() -> None:
    assert is_too_big(resolve(changed(recompute="", sp=None, seq_len=262144))) is True


def test_only_what_is_unstated_is_taken_otherwise() -> None:
    stated = resolve(changed(recompute="selective", zero_stage_or_fsdp="0"))
    assert least_memory(stated).plan == stated.plan
    open_plan = least_memory(resolve(changed(recompute="", zero_stage_or_fsdp="", sp=None))).plan
    assert open_plan.recompute == Recompute.FULL
    assert open_plan.sequence_parallel
