"""Closed forms of the schedules against the simulator, which knows none of them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.pipeline import exposed_p2p_seconds, last_excess_seconds, makespan_seconds
from planner.plan import SCHEDULE_NAMES
from tests.played import Shape, play, seconds, shapes


def closed_form(shape: Shape, forward: Sequence[float], backward: Sequence[float]) -> float:
    """Makespan from the times of the chunks."""
    p = shape.num_stages
    f = [sum(forward[rank::p]) for rank in range(p)]
    b = [sum(backward[rank::p]) for rank in range(p)]
    totals = [down + up for down, up in zip(f, b, strict=True)]
    return float(
        makespan_seconds(
            SCHEDULE_NAMES.index(shape.schedule),
            forward_sum=sum(f),
            backward_sum=sum(b),
            forward_max=max(f),
            backward_max=max(b),
            total_max=max(totals),
            first_forward=f[0],
            first_backward=b[0],
            last_total=totals[-1],
            num_microbatches=shape.num_microbatches,
            num_stages=p,
            vp=shape.vp,
        )
    )


def exposed(shape: Shape, transfer: float, overlaps: bool, last_excess: float = 0.0) -> float:
    return float(
        exposed_p2p_seconds(
            SCHEDULE_NAMES.index(shape.schedule),
            transfer_seconds=transfer,
            last_excess=last_excess,
            num_stages=shape.num_stages,
            vp=shape.vp,
            num_microbatches=shape.num_microbatches,
            overlaps=overlaps,
        )
    )


@given(shapes(), seconds, seconds)
def test_equal_stages(shape: Shape, forward: float, backward: float) -> None:
    """The bubble is (p - 1) chunks: fraction (p - 1) / (m v + p - 1) of the step."""
    f, b = [forward] * shape.num_chunks, [backward] * shape.num_chunks
    played = play(shape, f, b)
    chunks = shape.num_microbatches * shape.vp
    assert played.step_seconds == pytest.approx((chunks + shape.num_stages - 1) * (forward + backward), rel=1e-9)
    assert closed_form(shape, f, b) == pytest.approx(played.step_seconds, rel=1e-9)
    bubble = (shape.num_stages - 1) / (chunks + shape.num_stages - 1)
    assert played.breakdown.idle_seconds / played.step_seconds == pytest.approx(bubble, abs=1e-9)


@given(shapes("gpipe"), st.data())
def test_gpipe_is_exact_for_any_stages(shape: Shape, data: st.DataObject) -> None:
    times = st.lists(seconds, min_size=shape.num_stages, max_size=shape.num_stages)
    f, b = data.draw(times), data.draw(times)
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-9)


excess = st.floats(0.0, 3.0)


@given(shapes("1f1b"), st.floats(0.3, 4.0), st.tuples(st.floats(0.0, 0.33), st.floats(0.0, 0.33)), excess, excess)
def test_1f1b_is_exact_with_an_embedding_and_a_head(
    shape: Shape, backward: float, embedding: tuple[float, float], head_forward: float, head_backward: float
) -> None:
    """Stages between the first and the last are equal; the first is at most a third heavier."""
    f, b = [1.0] * shape.num_stages, [backward] * shape.num_stages
    f[0], b[0] = f[0] * (1 + embedding[0]), b[0] * (1 + embedding[1])
    f[-1], b[-1] = f[-1] + head_forward, b[-1] + head_backward
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-9)


@given(st.integers(2, 8), st.integers(0, 16), st.floats(0.7, 4.0), excess, excess, excess)
def test_1f1b_is_exact_for_any_first_and_last_stage_once_it_is_full(
    num_stages: int, more: int, backward: float, first: float, head_forward: float, head_backward: float
) -> None:
    shape = Shape("1f1b", num_stages, num_stages + more)
    f, b = [1.0] * num_stages, [backward] * num_stages
    f[0], b[0] = f[0] + first, b[0] + first * backward
    f[-1], b[-1] = f[-1] + head_forward, b[-1] + head_backward
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-9)


@given(shapes("1f1b"), st.floats(1.0, 3.0), st.data())
def test_1f1b_is_close_for_any_stages(shape: Shape, backward: float, data: st.DataObject) -> None:
    f = data.draw(st.lists(st.floats(0.95, 1.05), min_size=shape.num_stages, max_size=shape.num_stages))
    b = [backward * time for time in f]
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=0.03)


@given(shapes("interleaved"), st.floats(1.0, 4.0), st.floats(0.0, 2.0))
def test_interleaved_is_exact_with_a_head(shape: Shape, backward: float, head: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    f[-1], b[-1] = f[-1] + head, b[-1] + 2.0 * head
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-9)


@given(shapes("interleaved"), st.floats(1.0, 4.0), st.floats(0.0, 0.1), st.floats(0.0, 2.0))
def test_interleaved_is_close_with_an_embedding(shape: Shape, backward: float, embedding: float, head: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    f[0], b[0] = f[0] + embedding, b[0] + embedding
    f[-1], b[-1] = f[-1] + head, b[-1] + 2.0 * head
    assert closed_form(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=0.03)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.0, 0.5))
def test_transfers_beside_compute(shape: Shape, backward: float, transfer: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    silent, played = play(shape, f, b).step_seconds, play(shape, f, b, transfer=transfer).step_seconds
    assert played - silent == pytest.approx(exposed(shape, transfer, overlaps=True), abs=1e-9 * played)


@given(shapes("1f1b"), st.floats(0.0, 0.5), st.floats(0.0, 2.0))
def test_a_heavier_last_stage_hides_transfers(shape: Shape, transfer: float, head: float) -> None:
    f, b = [1.0] * shape.num_stages, [2.0] * shape.num_stages
    f[-1] += head
    total = [down + up for down, up in zip(f, b, strict=True)]
    slack = float(last_excess_seconds(sum(total), total[-1], shape.num_stages))
    silent, played = play(shape, f, b).step_seconds, play(shape, f, b, transfer=transfer).step_seconds
    assert played - silent == pytest.approx(exposed(shape, transfer, True, slack), abs=1e-9 * played)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.001, 0.3))
def test_transfers_that_ranks_wait_for(shape: Shape, backward: float, transfer: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    silent = play(shape, f, b, overlap=False).step_seconds
    played = play(shape, f, b, transfer=transfer, overlap=False).step_seconds
    tolerance = {"gpipe": 1e-9, "1f1b": 0.2, "interleaved": 0.3}[shape.schedule]
    told = exposed(shape, transfer, overlaps=False)
    assert told == pytest.approx(played - silent, rel=tolerance, abs=1e-9 * played)


def test_one_formula_serves_a_grid() -> None:
    """A row of arrays equals the plan alone, whatever the other schedules of the grid."""
    some = [Shape("gpipe", 4, 8), Shape("1f1b", 4, 8), Shape("interleaved", 2, 8, 3), Shape("1f1b", 1, 5)]
    stage = np.array([3.0, 3.0, 9.0, 3.0])
    p = np.array([float(shape.num_stages) for shape in some])
    together = makespan_seconds(
        np.array([SCHEDULE_NAMES.index(shape.schedule) for shape in some]),
        forward_sum=p * stage / 3.0,
        backward_sum=p * stage * 2.0 / 3.0,
        forward_max=stage / 3.0,
        backward_max=stage * 2.0 / 3.0,
        total_max=stage,
        first_forward=stage / 3.0,
        first_backward=stage * 2.0 / 3.0,
        last_total=stage,
        num_microbatches=np.array([float(shape.num_microbatches) for shape in some]),
        num_stages=p,
        vp=np.array([float(shape.vp) for shape in some]),
    )
    alone = [closed_form(shape, [1.0] * shape.num_chunks, [2.0] * shape.num_chunks) for shape in some]
    assert list(together) == pytest.approx(alone)
