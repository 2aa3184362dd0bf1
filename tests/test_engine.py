"""The simulator: waiting, overlap, jitter and what it refuses. Its makespans are met in test_pipeline."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Plan
from planner.work.actions import SENDS_GRADIENT, Action, Kind
from planner.work.program import StepProgram, build_actions, peak_activations, with_messages
from planner.work.schedules import SCHEDULES
from simulator.engine import Simulation, simulate
from simulator.trace import Stream, Track
from tests.played import Parts, Shape, prices, seconds, shapes


def one_rank(num_microbatches: int = 4, buckets: int = 4, **fields: int) -> StepProgram:
    return Shape("1f1b", 1, num_microbatches).program(buckets, dp=2, **fields)


def track(simulation: Simulation, rank: int, stream: Stream) -> Track:
    return next(track for track in simulation.tracks if (track.rank, track.stream) == (rank, stream))


@given(shapes(), st.booleans(), st.booleans(), st.integers(0, 1), st.integers(1, 3), st.data())
def test_parts_of_every_rank_sum_to_the_step(
    shape: Shape, dp_overlap: bool, pp_overlap: bool, zero_stage: int, buckets: int, data: st.DataObject
) -> None:
    table = prices(
        data.draw(st.lists(seconds, min_size=shape.num_chunks, max_size=shape.num_chunks)),
        data.draw(st.lists(seconds, min_size=shape.num_chunks, max_size=shape.num_chunks)),
        transfer=data.draw(st.floats(0.0, 5.0)),
        reduce=data.draw(st.floats(0.0, 20.0)),
        step=data.draw(st.floats(0.0, 5.0)),
        gather=data.draw(st.floats(0.0, 20.0)),
    )
    program = shape.program(buckets, dp=2, zero_stage=zero_stage)
    played = simulate(program, table, dp_overlap=dp_overlap, pp_overlap=pp_overlap)
    for rank in range(shape.num_stages):
        breakdown = played.breakdown_of(rank)
        assert breakdown.step_seconds == pytest.approx(played.step_seconds, rel=1e-12)
        assert min(breakdown.parts().values()) >= 0.0
    busy = [track(played, rank, Stream.COMPUTE).busy_seconds for rank in range(shape.num_stages)]
    assert busy[played.busiest_rank] == pytest.approx(max(busy))
    assert played.peak_activations == peak_activations(program)


@given(shapes(), st.booleans(), st.floats(0.0, 3.0), st.data())
def test_streams_run_one_thing_at_a_time_and_receives_follow_sends(
    shape: Shape, pp_overlap: bool, transfer: float, data: st.DataObject
) -> None:
    times = data.draw(st.lists(seconds, min_size=shape.num_chunks, max_size=shape.num_chunks))
    table = prices(times, times, transfer=transfer, reduce=1.0)
    played = simulate(shape.program(2, dp=2), table, dp_overlap=True, pp_overlap=pp_overlap)
    ended: dict[Action, float] = {}
    for each in played.tracks:
        assert np.all(each.end_seconds > each.start_seconds)
        assert np.all(each.start_seconds[1:] >= each.end_seconds[:-1] - 1e-12 * played.step_seconds)
        if each.stream is Stream.COMPUTE:
            ended |= {action: end for action, _, end in each.spans()}
    for each in played.tracks:
        if each.stream is Stream.PP_SEND:
            kinds = {Kind.SEND_FORWARD: {Kind.FORWARD}, Kind.SEND_BACKWARD: SENDS_GRADIENT}
            for action, start, _ in each.spans():
                made = [Action(kind, action.chunk, action.microbatch) for kind in kinds[action.kind]]
                assert start >= min(ended[one] for one in made if one in ended) - 1e-12 * played.step_seconds


@pytest.mark.parametrize("num_stages", [2, 4])
def test_a_shallower_warm_up_takes_longer(num_stages: int) -> None:
    shape = Shape("1f1b", num_stages, 12)
    right = shape.program()
    ranks = list(SCHEDULES["1f1b"].actions(num_stages, 12))
    ranks[0] = tuple(Action(action.kind, 0, action.microbatch) for action in ranks[1])
    wrong = replace(right, ranks=with_messages(tuple(ranks), reduces=False, gathers=False))
    table = prices([1.0] * num_stages, [2.0] * num_stages)
    times = [simulate(each, table, dp_overlap=True, pp_overlap=True).step_seconds for each in (right, wrong)]
    assert times[1] > times[0] * 1.05


def test_gradient_buckets_run_beside_the_backward_that_makes_them() -> None:
    """Four microbatches of 1 + 2 s, then 4 buckets of 0.25 s: three hide, the last does not."""
    table = prices([1.0], [2.0], reduce=1.0, step=0.5)
    played = simulate(one_rank(), table, dp_overlap=True, pp_overlap=True)
    assert played.step_seconds == pytest.approx(12.0 + 0.25 + 0.5)
    assert played.breakdown.dp_seconds == pytest.approx(0.25)
    dp = track(played, 0, Stream.DP)
    assert list(dp.start_seconds) == pytest.approx([10.5, 11.0, 11.5, 12.0])


def test_a_slow_reduction_starts_with_its_first_bucket_and_never_pauses() -> None:
    table = prices([1.0], [2.0], reduce=8.0)
    played = simulate(one_rank(), table, dp_overlap=True, pp_overlap=True)
    dp = track(played, 0, Stream.DP)
    assert list(zip(dp.start_seconds, dp.end_seconds, strict=True)) == [pytest.approx((10.5, 18.5))]


def test_without_overlap_reduction_and_gather_stand_beside_nothing() -> None:
    table = prices([1.0], [2.0], reduce=1.0, step=0.5, gather=0.75)
    played = simulate(one_rank(zero_stage=1), table, dp_overlap=False, pp_overlap=True)
    assert played.step_seconds == pytest.approx(12.0 + 1.0 + 0.5 + 0.75)
    assert played.breakdown.dp_seconds == pytest.approx(1.75)
    assert played.breakdown.idle_seconds == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("gather", "late"), [(0.4, 0.1), (0.9, 0.225), (2.0, 1.25)])
def test_a_gather_that_overlaps_delays_the_first_forward(gather: float, late: float) -> None:
    """By its first bucket (gather / 4), or by what the forward of 1 s cannot hide of it (gather - 3 / 4)."""
    table = prices([1.0], [2.0], gather=gather)
    played = simulate(one_rank(zero_stage=1), table, dp_overlap=True, pp_overlap=True)
    assert track(played, 0, Stream.COMPUTE).start_seconds[0] == pytest.approx(gather / 4)
    assert played.step_seconds == pytest.approx(12.0 + late)
    assert played.breakdown.dp_seconds == pytest.approx(late)


def test_gradients_of_every_chunk_are_reduced_before_the_step() -> None:
    shape = Shape("interleaved", 2, 4, 2)
    table = prices([1.0] * 4, [2.0] * 4, reduce=30.0, step=0.5)
    for overlap in (True, False):
        played = simulate(shape.program(3, dp=2), table, dp_overlap=overlap, pp_overlap=True)
        for rank in range(2):
            ends = track(played, rank, Stream.DP).end_seconds
            steps = [start for action, start, _ in track(played, rank, Stream.COMPUTE).spans()
                     if action.kind is Kind.OPTIMIZER]  # fmt: skip
            assert min(steps) >= max(ends) - 1e-9


def test_the_same_seed_gives_the_same_bytes() -> None:
    shape = Shape("interleaved", 4, 8, 2)
    table = prices([1.0] * 8, [2.0] * 8, transfer=0.3, reduce=2.0, step=0.1)

    def bytes_of(seed: int) -> bytes:
        played = simulate(
            shape.program(2, dp=2), table, dp_overlap=True, pp_overlap=False,
            jitter_fraction=0.2, generator=np.random.default_rng(seed),
        )  # fmt: skip
        return b"".join(
            each.index.tobytes() + each.start_seconds.tobytes() + each.end_seconds.tobytes() for each in played.tracks
        )

    assert bytes_of(7) == bytes_of(7)
    assert bytes_of(7) != bytes_of(8)


def test_jitter_keeps_the_mean_of_an_action_and_lengthens_a_pipeline() -> None:
    generator = np.random.default_rng(0)
    table = prices([1.0], [2.0])
    alone = simulate(one_rank(5000), table, dp_overlap=True, pp_overlap=True, jitter_fraction=0.3, generator=generator)
    assert alone.step_seconds / 15000.0 == pytest.approx(1.0, abs=4 * 0.3 / np.sqrt(5000))  # four standard errors
    shape = Shape("1f1b", 8, 64)
    still = prices([1.0] * 8, [2.0] * 8)
    shaken = simulate(
        shape.program(), still, dp_overlap=True, pp_overlap=True, jitter_fraction=0.3, generator=generator
    )
    assert shaken.step_seconds > 1.05 * (64 + 7) * 3.0


def test_breakdown_follows_the_price_of_each_chunk() -> None:
    shape = Shape("1f1b", 2, 3)
    table = prices([1.0, 2.0], [2.0, 4.0], step=0.5)
    breakdown = simulate(shape.program(), table, dp_overlap=True, pp_overlap=True).breakdown
    assert breakdown.forward_seconds == pytest.approx(0.8 * 6.0)
    assert breakdown.tp_seconds == pytest.approx(0.2 * 6.0)
    assert breakdown.recompute_seconds == pytest.approx(0.25 * 12.0)
    assert breakdown.backward_seconds == pytest.approx(0.75 * 12.0)
    assert breakdown.optimizer_seconds == pytest.approx(0.5)
    assert breakdown.idle_seconds == pytest.approx(3.0)  # fill before, drain after


def test_a_transfer_is_exposed_while_its_receiver_waits() -> None:
    """Two stages, one microbatch: rank 1 sees c before its forward and nothing of the way back but its own send."""
    shape = Shape("1f1b", 2, 1)
    played = simulate(shape.program(), prices([1.0] * 2, [2.0] * 2, transfer=0.25), dp_overlap=True, pp_overlap=True)
    assert played.step_seconds == pytest.approx(6.5)
    for rank in range(2):
        assert played.breakdown_of(rank).pp_seconds == pytest.approx(0.5)
        assert played.breakdown_of(rank).idle_seconds == pytest.approx(3.0)


def test_bytes_held_come_from_the_program() -> None:
    program = Shape("1f1b", 3, 8).program()
    played = simulate(program, prices([1.0] * 3, [2.0] * 3), dp_overlap=True, pp_overlap=True)
    assert played.peak_activations == (3, 2, 1)
    assert played.peak_activation_bytes == (300.0, 202.0, 102.0)


def test_bad_input_is_named() -> None:
    program, table = Shape("1f1b", 2, 2).program(), prices([1.0] * 2, [2.0] * 2)
    flags = {"dp_overlap": True, "pp_overlap": True}
    with pytest.raises(ValueError, match="there is none for B of chunk 1"):
        simulate(program, {key: table[key] for key in table if key != (Kind.BACKWARD, 1)}, **flags)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="F of chunk 0 takes"):
            simulate(program, table | {(Kind.FORWARD, 0): Parts({"forward": value})}, **flags)
        with pytest.raises(ValueError, match="jitter_fraction"):
            simulate(program, table, **flags, jitter_fraction=value, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs a generator"):
        simulate(program, table, **flags, jitter_fraction=0.1)


def test_a_deadlock_is_named() -> None:
    plan = Plan(pp=2)
    ranks = [list(actions) for actions in build_actions(plan, 2)]
    ranks[0].remove(Action(Kind.SEND_FORWARD, 0, 1))
    program = StepProgram(plan, 2, tuple(tuple(actions) for actions in ranks), {})
    with pytest.raises(ValueError, match="rank 0: deadlock, 1SEND_B1 is never reached"):
        simulate(program, prices([1.0] * 2, [2.0] * 2), dp_overlap=True, pp_overlap=True)
