"""The contract every schedule meets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import SCHEDULE_NAMES
from planner.work.actions import Action, Kind
from planner.work.program import StepProgram, check, peak_activations
from planner.work.schedules import SCHEDULES, in_flight
from tests.played import Shape, shapes


def test_every_schedule_of_a_plan_is_registered() -> None:
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)
    assert all(SCHEDULES[name].name == name for name in SCHEDULES)
    assert all(schedule.build.__doc__ for schedule in SCHEDULES.values())


@given(shapes())
def test_every_action_occurs_once_on_its_rank(shape: Shape) -> None:
    ranks = SCHEDULES[shape.schedule].actions(shape.num_stages, shape.num_microbatches, shape.vp)
    for rank, actions in enumerate(ranks):
        expected = {
            Action(kind, chunk, microbatch)
            for kind in (Kind.FORWARD, Kind.BACKWARD)
            for chunk in range(rank, shape.num_chunks, shape.num_stages)
            for microbatch in range(shape.num_microbatches)
        }
        assert len(actions) == len(expected)
        assert set(actions) == expected


@given(shapes())
def test_it_runs_and_holds_what_theory_says(shape: Shape) -> None:
    program = shape.program()
    check(program)
    schedule = SCHEDULES[shape.schedule]
    held = [
        int(schedule.in_flight(shape.num_stages, shape.num_microbatches, shape.vp, rank))
        for rank in range(shape.num_stages)
    ]
    assert list(peak_activations(program)) == held


@given(shapes())
def test_in_flight_serves_arrays(shape: Shape) -> None:
    code = SCHEDULE_NAMES.index(shape.schedule)
    ranks = np.arange(shape.num_stages)
    held = in_flight(np.full(shape.num_stages, code), shape.num_stages, shape.num_microbatches, shape.vp, ranks)
    assert list(held) == list(peak_activations(shape.program()))


def one_off_warm_up(shape: Shape, deeper: int) -> StepProgram:
    """1F1B with a warm-up that is `deeper` forwards longer, where there is one to lengthen or shorten."""
    longer = SCHEDULES["1f1b"].actions(shape.num_stages + 1, shape.num_microbatches)
    shorter = SCHEDULES["1f1b"].actions(shape.num_stages, shape.num_microbatches)
    if deeper > 0:  # the order of a rank with one more stage below it
        ranks = longer[: shape.num_stages]
    else:  # every rank but the last runs the order of the one below it
        ranks = tuple(
            tuple(Action(action.kind, rank, action.microbatch) for action in shorter[min(rank + 1, len(shorter) - 1)])
            for rank in range(shape.num_stages)
        )
    return StepProgram(shape.plan(), shape.num_microbatches, ranks, {})


@pytest.mark.parametrize("deeper", [1, -1])
@pytest.mark.parametrize("num_stages", [2, 4, 7])
def test_a_warm_up_one_off_holds_something_else(num_stages: int, deeper: int) -> None:
    """A deeper warm-up takes the same time but more memory; only the activations betray it."""
    shape = Shape("1f1b", num_stages, 12)
    held = peak_activations(one_off_warm_up(shape, deeper))
    assert held[0] == peak_activations(shape.program())[0] + deeper


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("interleaved", (4, 6, 2), "multiple of pp microbatches; got pp=4, 6 microbatches, vp=2"),
        ("interleaved", (4, 8, 1), "vp of at least 2"),
        ("1f1b", (4, 8, 2), "vp=1"),
        ("gpipe", (4, 8, 2), "vp=1"),
        ("gpipe", (4, 0, 1), "at least 1"),
        ("1f1b", (0, 4, 1), "at least 1"),
    ],
)
def test_requirements_are_named(name: str, arguments: tuple[int, int, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SCHEDULES[name].actions(*arguments)


@given(st.sampled_from(SCHEDULE_NAMES), st.integers(1, 8), st.integers(1, 32), st.integers(1, 4))
def test_requirements_serve_arrays_and_decide(name: str, num_stages: int, num_microbatches: int, vp: int) -> None:
    schedule = SCHEDULES[name]
    columns: list[Any] = [np.array([value]) for value in (num_stages, num_microbatches, vp)]
    legal = all(bool(requirement.holds(*columns)[0]) for requirement in schedule.requirements)
    if legal:
        assert len(schedule.actions(num_stages, num_microbatches, vp)) == num_stages
    else:
        with pytest.raises(ValueError, match=f"schedule {name}"):
            schedule.actions(num_stages, num_microbatches, vp)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1f1b", "gpipe", "interleaved"])
@pytest.mark.parametrize(("num_stages", "num_microbatches", "vp"), [(2, 4, 2), (4, 8, 2), (4, 4, 3), (3, 9, 4)])
def test_the_order_is_that_of_torch(name: str, num_stages: int, num_microbatches: int, vp: int) -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    builders = {"1f1b": "Schedule1F1B", "gpipe": "ScheduleGPipe", "interleaved": "ScheduleInterleaved1F1B"}
    theirs = object.__new__(getattr(schedules, builders[name]))
    theirs._n_microbatches = num_microbatches
    theirs.pp_group_size = theirs._num_stages = num_stages
    vp = theirs.n_local_stages = vp if name == "interleaved" else 1
    theirs.microbatches_per_round = num_stages
    ours = SCHEDULES[name].actions(num_stages, num_microbatches, vp)
    if name == "1f1b":  # torch 2.13 lists (but does not run) microbatches 1 .. m on the last rank
        ours = ours[:-1]
    for rank, actions in enumerate(ours):
        if name == "interleaved":
            order = theirs._calculate_single_rank_operations(rank)
        else:
            order = theirs._get_pipeline_order()[rank]
        wanted = [
            (step.computation_type.value, step.stage_index, step.microbatch_index)
            for step in order
            if step is not None and step.computation_type.value in ("F", "B")
        ]
        assert [(action.kind.value, action.chunk, action.microbatch) for action in actions] == wanted
