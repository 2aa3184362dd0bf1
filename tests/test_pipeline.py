"""Longest paths of the schedules against the simulator, which knows none of them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.critical import PRICED, graph, with_messages
from planner.cost.pipeline import paths_of
from planner.plan import SCHEDULE_NAMES
from planner.work.actions import SENDS
from tests.played import Shape, play, seconds, shapes

WEIGHT_FRACTION = 0.5
CLASSIC = ("gpipe", "1f1b", "interleaved", "breadth-first")


def price_table(forward: Sequence[float], backward: Sequence[float]) -> np.ndarray:
    """F, B, I and W of every chunk, (chunks, 4, 1)."""
    rows = [(down, up, (1.0 - WEIGHT_FRACTION) * up, WEIGHT_FRACTION * up)
            for down, up in zip(forward, backward, strict=True)]  # fmt: skip
    return np.array(rows, dtype=np.float32)[:, :, None]


def told(
    shape: Shape, forward: Sequence[float], backward: Sequence[float],
    transfer: float = 0.0, overlaps: bool = True, like: tuple[Sequence[float], Sequence[float]] | None = None,
    is_slow: bool = False,
) -> float:  # fmt: skip
    """The longest of the paths found under prices `like` (the same unless said), at these prices."""
    typical = price_table(*(like or (forward, backward)))
    paths = paths_of(
        shape.schedule, shape.num_stages, shape.num_microbatches, shape.vp,
        tuple(range(shape.num_chunks)), typical.tobytes(), overlaps, is_slow,
    )  # fmt: skip
    prices = price_table(forward, backward).astype(float).reshape(-1)
    return float((paths.num_actions @ prices + paths.num_transfers * transfer).max())


@given(shapes(), st.data())
def test_any_chunks(shape: Shape, data: st.DataObject) -> None:
    """Without transfers the longest path is the makespan, for every schedule and any prices."""
    times = st.lists(seconds, min_size=shape.num_chunks, max_size=shape.num_chunks)
    f, b = data.draw(times), data.draw(times)
    if shape.num_microbatches <= 3 * shape.num_stages:
        assert told(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-6)


@given(shapes(*CLASSIC), st.integers(0, 40), seconds, seconds)
def test_equal_stages(shape: Shape, rounds: int, forward: float, backward: float) -> None:
    """The bubble is (p - 1) chunks: fraction (p - 1) / (m v + p - 1) of the step."""
    longer = Shape(shape.schedule, shape.num_stages, shape.num_microbatches + rounds * shape.num_stages, shape.vp)
    f, b = [forward] * longer.num_chunks, [backward] * longer.num_chunks
    played = play(longer, f, b)
    chunks = longer.num_microbatches * longer.vp
    assert played.step_seconds == pytest.approx((chunks + longer.num_stages - 1) * (forward + backward), rel=1e-9)
    assert told(longer, f, b) == pytest.approx(played.step_seconds, rel=1e-6)
    bubble = (longer.num_stages - 1) / (chunks + longer.num_stages - 1)
    assert played.breakdown.idle_seconds / played.step_seconds == pytest.approx(bubble, abs=1e-9)


@given(shapes(*CLASSIC), st.integers(0, 8), st.floats(1.0, 3.0), st.floats(0.0, 0.3), st.floats(0.0, 2.0))
def test_an_embedding_and_a_head(shape: Shape, rounds: int, backward: float, embedding: float, head: float) -> None:
    """Steps of any length, extended from short ones: a path that overtakes later is missed (seen: 2.5 %)."""
    longer = Shape(shape.schedule, shape.num_stages, shape.num_microbatches + rounds * shape.num_stages, shape.vp)
    f, b = [1.0] * longer.num_chunks, [backward] * longer.num_chunks
    f[0], b[0] = f[0] + embedding, b[0] + embedding
    f[-1], b[-1] = f[-1] + head, b[-1] + 2.0 * head
    assert told(longer, f, b) == pytest.approx(play(longer, f, b).step_seconds, rel=0.03)


@given(shapes(), st.data())
def test_paths_found_under_other_prices_are_never_longer(shape: Shape, data: st.DataObject) -> None:
    times = st.lists(st.floats(0.5, 2.0), min_size=shape.num_chunks, max_size=shape.num_chunks)
    f, b = data.draw(times), data.draw(times)
    like = (data.draw(times), data.draw(times))
    if shape.num_microbatches <= 3 * shape.num_stages:
        assert told(shape, f, b, like=like) <= play(shape, f, b).step_seconds * (1.0 + 1e-6)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.0, 0.1), st.floats(0.0, 0.5))
def test_like_prices_have_the_same_longest_path(shape: Shape, backward: float, more: float, head: float) -> None:
    """Prices a tenth off those the paths were found under cost next to nothing."""
    n = shape.num_chunks
    f, b = [1.0] * n, [backward] * n
    f[-1], b[-1] = f[-1] + head, b[-1] + head
    like = ([1.0 + more] * (n - 1) + f[-1:], b)
    assert told(shape, f, b, like=like) == pytest.approx(play(shape, f, b).step_seconds, rel=0.01)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.0, 0.3))
def test_transfers_beside_compute(shape: Shape, backward: float, transfer: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    played = play(shape, f, b, transfer=transfer).step_seconds
    assert told(shape, f, b, transfer) == pytest.approx(played, rel=0.01)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.3, 3.0))
def test_slow_transfers_wait_for_one_another(shape: Shape, backward: float, transfer: float) -> None:
    """Queues at the sender are known, those at the receiver are not: never longer than played, and near it."""
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    played = play(shape, f, b, transfer=transfer).step_seconds
    queued = told(shape, f, b, transfer, is_slow=True)
    assert told(shape, f, b, transfer) <= queued * (1.0 + 1e-6)
    assert 0.8 * played <= queued <= played * (1.0 + 1e-6)


@given(shapes("1f1b"), st.floats(0.0, 0.3), st.floats(0.0, 2.0))
def test_a_heavier_last_stage_hides_transfers(shape: Shape, transfer: float, head: float) -> None:
    f, b = [1.0] * shape.num_stages, [2.0] * shape.num_stages
    f[-1] += head
    played = play(shape, f, b, transfer=transfer).step_seconds
    assert told(shape, f, b, transfer) == pytest.approx(played, rel=1e-3)


@given(shapes(), st.floats(1.0, 4.0), st.floats(0.001, 0.1))
def test_transfers_that_ranks_wait_for(shape: Shape, backward: float, transfer: float) -> None:
    f, b = [1.0] * shape.num_chunks, [backward] * shape.num_chunks
    played = play(shape, f, b, transfer=transfer, overlap=False).step_seconds
    assert told(shape, f, b, transfer, overlaps=False) == pytest.approx(played, rel=0.02)


@given(shapes(), st.booleans())
def test_the_graph_holds_every_action_after_what_it_waits_for(shape: Shape, overlaps: bool) -> None:
    found = graph(shape.schedule, shape.num_stages, shape.num_microbatches, shape.vp)
    if not overlaps:
        found = with_messages(found, np.ones(found.num_columns), 0.1)
    places = np.arange(len(found.column))
    assert np.all(found.waits < places)
    num_messages = int(np.count_nonzero(found.column == found.num_columns))
    sends = sum(action.kind in SENDS for actions in shape.program().ranks for action in actions)
    assert num_messages == (0 if overlaps else sends)
    assert found.num_columns == shape.num_chunks * len(PRICED)
    assert [level.stop for level in found.levels][-1] == len(places)


def test_every_schedule_has_a_longest_path() -> None:
    for name in SCHEDULE_NAMES:
        vp = 1 if name in ("gpipe", "1f1b", "zb-h1", "zb-h2", "dualpipe") else 2
        shape = Shape(name, 4, 64, vp)
        f, b = [1.0] * shape.num_chunks, [2.0] * shape.num_chunks
        assert told(shape, f, b) == pytest.approx(play(shape, f, b).step_seconds, rel=1e-6), name
