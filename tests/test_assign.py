"""The assignment of layers to chunks against all there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.layout import EVEN, layout_code, layout_of, parsed, written
from planner.work.assign import assign

costs = st.floats(0.1, 3.0)


def slowest(layers: list[float], counts: tuple[int, ...], first: float, last: float) -> float:
    ends = np.cumsum((0, *counts))
    chunks = [sum(layers[start:end]) for start, end in itertools.pairwise(ends)]
    chunks[0] += first
    chunks[-1] += last
    return max(chunks)


def every_assignment(num_layers: int, num_chunks: int) -> list[tuple[int, ...]]:
    """All ways in which no chunk between the first and the last is empty."""
    ways = itertools.product(range(num_layers + 1), repeat=num_chunks)
    return [way for way in ways if sum(way) == num_layers and all(way[1:-1])]


@given(st.lists(costs, min_size=1, max_size=7), st.integers(1, 4), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_it_is_the_best_of_all(layers: list[float], num_chunks: int, first: float, last: float) -> None:
    ways = every_assignment(len(layers), num_chunks)
    if not ways:
        with pytest.raises(ValueError, match="cannot be dealt out"):
            assign(np.array(layers), num_chunks, first, last)
        return
    found = assign(np.array(layers), num_chunks, first, last)
    assert found in ways
    best = min(slowest(layers, way, first, last) for way in ways)
    assert slowest(layers, found, first, last) == pytest.approx(best, rel=1e-9)


@given(st.lists(costs, min_size=2, max_size=7), st.integers(2, 4), st.integers(0, 3), st.integers(1, 3))
def test_what_is_not_allowed_is_not_taken(layers: list[float], num_chunks: int, chunk: int, most: int) -> None:
    """One chunk may hold only so many layers."""
    size = len(layers) + 1
    start, end = np.indices((size, size))
    allowed = np.ones((num_chunks, size, size), dtype=bool)
    allowed[chunk % num_chunks] = end - start <= most
    ways = [way for way in every_assignment(len(layers), num_chunks) if way[chunk % num_chunks] <= most]
    if ways:
        found = assign(np.array(layers), num_chunks, allowed=allowed)
        best = min(slowest(layers, way, 0.0, 0.0) for way in ways)
        assert slowest(layers, found, 0.0, 0.0) == pytest.approx(best, rel=1e-9)
        assert found[chunk % num_chunks] <= most


def test_equal_layers_are_dealt_out_equally() -> None:
    assert assign(np.ones(32), 8) == (4,) * 8


def test_a_heavy_head_leaves_its_chunk_fewer_layers() -> None:
    found = assign(np.ones(61), 16, last=2.0)
    assert max(found) == 4
    assert found[-1] == 2


layouts = st.lists(st.integers(0, 12), min_size=2, max_size=12).map(tuple)


@given(layouts)
def test_layouts_are_read_back(layout: tuple[int, ...]) -> None:
    assert parsed(written(layout)) == layout
    assert parsed(",".join(map(str, layout))) == layout
    assert layout_of(layout_code(layout)) == layout


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("even", EVEN),
        ("4,4,3", (4, 4, 3)),
        ("Et*4|(t*4|)*14tL", (4,) * 15 + (1,)),
        ("Ett|t*3|L", (2, 3, 0)),
        ("E|t,t|(tt|)*2L", (0, 2, 2, 2, 0)),
    ],
)
def test_megatron_writes_them_so(text: str, layout: tuple[int, ...]) -> None:
    assert parsed(text) == layout


@pytest.mark.parametrize("text", ["", "tall", "t|t", "Et|mL", "Et|t", "E" + "t" * 2_000_000 + "L"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="layout"):
        parsed(text)
