"""Placements as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.placement import Lane, Placement, parsed, written

NAMES = st.sampled_from(["h100", "a100-80gb", "North_1"])
LANES = st.builds(
    Lane, st.integers(1, 9), st.integers(0, 99), st.lists(NAMES, min_size=1, max_size=6).map(lambda names: tuple(names))
)


@given(st.lists(LANES, max_size=3).map(lambda lanes: tuple(lanes)))
def test_a_placement_is_read_as_it_is_written(placement: Placement) -> None:
    assert parsed(written(placement)) == placement


@pytest.mark.parametrize("text", ["", "h100", "2 of", "2 of h100*x", "2 of h100*0", "2 of h100 @", "2 of h100,;"])
def test_what_is_no_placement_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="8 of h100"):
        parsed(text)
