"""Schedules as flags of published runs name them."""

from dataclasses import replace
from pathlib import Path

import pytest

import validate
from planner.work.schedules import SCHEDULES
from validate.runs.pipelining import CHUNKS, NAMES, schedule_of
from validate.runs.table import Run, read_runs

SOME = read_runs(Path(validate.__file__).parent / "data" / "sequence_parallelism_table5.csv")[0]


def run(flags: str, pp: int = 8) -> Run:
    return replace(SOME, pp=pp, other_flags=flags)


@pytest.mark.parametrize(
    ("flags", "vp", "expected"),
    [
        ("", 1, ("1f1b", 1)),
        ("", 4, ("interleaved", 4)),
        ("torch.compile; PP schedule Interleaved 1F1B", 2, ("interleaved", 2)),
        ("PP schedule 1F1B", 2, ("interleaved", 2)),
        ("PP schedule zbv", 2, ("zb-v", 2)),
        ("PP schedule ZBVZeroBubble; AsyncTP", 1, ("zb-v", 2)),
        ("PP schedule DualPipeV", 1, ("dualpipe-v", 2)),
        ("PP schedule zb-h1", 1, ("zb-h1", 1)),
    ],
)
def test_names_are_ours(flags: str, vp: int, expected: tuple[str, int]) -> None:
    assert schedule_of(run(flags), vp) == expected


def test_a_single_stage_has_no_schedule() -> None:
    assert schedule_of(run("PP schedule zbv", pp=1), 1) == ("1f1b", 1)


def test_an_unknown_schedule_is_said() -> None:
    with pytest.raises(ValueError, match="pipeline schedule v-min is not modelled"):
        schedule_of(run("PP schedule v-min"), 2)


def test_every_name_stands_for_a_schedule_with_the_chunks_it_takes() -> None:
    for name in NAMES.values():
        assert name in SCHEDULES
    for name, vp in CHUNKS.items():
        assert all(rule.holds(4, 16, vp) for rule in SCHEDULES[name].requirements)
