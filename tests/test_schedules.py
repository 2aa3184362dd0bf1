"""The contract every schedule meets."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import SCHEDULE_NAMES
from planner.work.actions import BACKWARDS, Action, Kind
from planner.work.program import StepProgram, check, peak_activations
from planner.work.schedules import SCHEDULES, in_flight
from simulator.engine import simulate
from simulator.trace import Stream
from tests.played import Shape, play, prices, shapes


def test_every_schedule_of_a_plan_is_registered() -> None:
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)
    assert all(SCHEDULES[name].name == name for name in SCHEDULES)
    assert all(schedule.build.__doc__ for schedule in SCHEDULES.values())


@given(shapes())
def test_every_pass_occurs_once_on_its_rank(shape: Shape) -> None:
    """Forward, and backward whole or in two parts, of every microbatch on every chunk that it passes."""
    schedule = SCHEDULES[shape.schedule]
    placement = schedule.placement
    ranks = schedule.actions(shape.num_stages, shape.num_microbatches, shape.vp)
    assert placement.num_copies * placement.num_pieces(shape.num_stages, shape.vp) == shape.num_chunks
    for rank, actions in enumerate(ranks):
        assert len(set(actions)) == len(actions)
        passes = Counter((action.kind, action.chunk, action.microbatch) for action in actions)
        expected = {
            (chunk, microbatch)
            for chunk in range(shape.num_chunks) if shape.ranks[chunk] == rank
            for microbatch in placement.microbatches(chunk, shape.num_stages, shape.vp, shape.num_microbatches)
        }  # fmt: skip
        assert {(action.chunk, action.microbatch) for action in actions} == expected
        for chunk, microbatch in expected:
            whole, inputs, weights = (passes[kind, chunk, microbatch] for kind in sorted(BACKWARDS))
            assert passes[Kind.FORWARD, chunk, microbatch] == 1
            assert (whole, inputs, weights) in ((1, 0, 0), (0, 1, 1))
            assert whole or schedule.splits_backward
    passing = [
        len(placement.microbatches(chunk, shape.num_stages, shape.vp, shape.num_microbatches))
        for chunk in range(shape.num_chunks)
    ]
    assert sum(passing) == shape.num_microbatches * shape.num_stages * shape.vp


@given(shapes())
def test_it_runs_and_holds_what_theory_says(shape: Shape) -> None:
    """Never more than the bound, and just that with microbatches enough to fill the pipeline."""
    program = shape.program()
    check(program)
    held = in_flight(np.array(SCHEDULE_NAMES.index(shape.schedule)), shape.num_stages, shape.num_microbatches,
                     shape.vp, np.arange(shape.num_stages))  # fmt: skip
    peak = np.array(peak_activations(program))
    assert np.all(peak <= held)
    if shape.num_microbatches >= 2 * shape.num_stages or not SCHEDULES[shape.schedule].splits_backward:
        assert list(peak) == list(held)


@given(shapes())
def test_in_flight_serves_arrays(shape: Shape) -> None:
    code = SCHEDULE_NAMES.index(shape.schedule)
    ranks = np.arange(shape.num_stages)
    held = in_flight(np.full(shape.num_stages, code), shape.num_stages, shape.num_microbatches, shape.vp, ranks)
    own = SCHEDULES[shape.schedule].in_flight
    assert list(held) == [own(shape.num_stages, shape.num_microbatches, shape.vp, rank) for rank in ranks]


@given(shapes(), st.booleans(), st.floats(0.0, 3.0), st.integers(0, 2**32 - 1))
def test_no_schedule_deadlocks_and_no_rank_starves_under_any_delay(
    shape: Shape, overlap: bool, spread: float, seed: int
) -> None:
    """Every action is drawn to be fast or slow by any factor, and messages may wait for their receivers."""
    program, (forward, backward) = shape.program(), np.ones((2, shape.num_chunks))
    played = simulate(program, prices(forward, backward, transfer=0.3, reduce=0.5), dp_overlap=overlap,
                      pp_overlap=overlap, jitter_fraction=spread, generator=np.random.default_rng(seed))  # fmt: skip
    done = Counter(track.rank for track in played.tracks for _ in track.start_seconds if track.stream is Stream.COMPUTE)
    assert all(done[rank] >= 2 * shape.vp for rank in range(shape.num_stages))
    assert np.isfinite(played.step_seconds)


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
        ("breadth-first", (4, 3, 2), "at least pp microbatches"),
        ("zb-h1", (4, 8, 2), "vp=1"),
        ("zb-v", (4, 8, 1), "vp=2"),
        ("zb-v", (4, 6, 2), "at least 2 pp - 1 microbatches"),
        ("dualpipe", (3, 8, 1), "an even pp"),
        ("dualpipe-v", (4, 7, 2), "at least 2 pp microbatches"),
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


@given(shapes(*sorted(set(SCHEDULE_NAMES) - {"zb-v"})), st.floats(0.3, 1.0))
def test_idle_time_is_what_its_authors_say(shape: Shape, weight: float) -> None:
    """Counted from a rank's own first action to its last, at equal chunks with f = i >= w; enough microbatches.

    DualPipe's authors count a forward and a backward that run together as one block, so theirs is a bound.
    """
    schedule = SCHEDULES[shape.schedule]
    filled = Shape(shape.schedule, shape.num_stages, shape.num_microbatches + 2 * shape.num_stages, shape.vp)
    if not all(rule.holds(filled.num_stages, filled.num_microbatches, filled.vp) for rule in schedule.requirements):
        return
    ones, chunks = [1.0] * filled.num_chunks, filled.num_chunks / filled.num_stages
    played = play(filled, ones, [1.0 + weight] * filled.num_chunks, weight_fraction=weight / (1.0 + weight))
    idle = max(
        track.end_seconds.max() - track.start_seconds.min() - track.busy_seconds
        for track in played.tracks if track.stream is Stream.COMPUTE
    )  # fmt: skip
    told = float(schedule.bubble(filled.num_stages, filled.vp, chunks, chunks, chunks * weight))
    if shape.schedule.startswith("dualpipe"):
        assert idle <= told + 1e-9 * played.step_seconds
    else:
        assert idle == pytest.approx(told, abs=1e-9 * played.step_seconds)


@given(shapes("zb-v"))
def test_zb_v_leaves_no_rank_idle_when_its_three_passes_are_equal(shape: Shape) -> None:
    played = play(shape, [1.0] * shape.num_chunks, [2.0] * shape.num_chunks)
    assert SCHEDULES["zb-v"].bubble(shape.num_stages, 2, 2.0, 2.0, 2.0) == 0.0
    for track in played.tracks:
        if track.stream is Stream.COMPUTE:
            assert track.end_seconds.max() - track.start_seconds.min() == pytest.approx(track.busy_seconds)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zb-v", "dualpipe-v"])
@pytest.mark.parametrize(("num_stages", "num_microbatches"), [(2, 6), (4, 8), (3, 9)])
def test_the_order_of_two_chunks_is_that_of_torch(name: str, num_stages: int, num_microbatches: int) -> None:
    """Forwards and gradients of inputs; when gradients of weights run is left to the order in which they wait."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    builders = {"zb-v": "ScheduleZBVZeroBubble", "dualpipe-v": "ScheduleDualPipeV"}
    theirs = object.__new__(getattr(schedules, builders[name]))
    theirs._n_microbatches, theirs.pp_group_size = num_microbatches, num_stages
    theirs._num_stages = theirs.num_stages = 2 * num_stages
    theirs.stage_index_to_group_rank = {
        chunk: chunk if chunk < num_stages else 2 * num_stages - 1 - chunk for chunk in range(2 * num_stages)
    }
    for rank, actions in enumerate(SCHEDULES[name].actions(num_stages, num_microbatches, 2)):
        wanted = []
        for step in theirs._calculate_single_rank_operations(rank):
            if step is not None:
                wanted += [
                    ("F" if part.computation_type.value == "F" else "B", part.stage_index, part.microbatch_index)
                    for part in (step.sub_actions or (step,)) if part.computation_type.value != "W"
                ]  # fmt: skip
        ours = [
            ("F" if action.kind is Kind.FORWARD else "B", action.chunk, action.microbatch)
            for action in actions if action.kind is not Kind.BACKWARD_WEIGHT
        ]  # fmt: skip
        assert ours == wanted
