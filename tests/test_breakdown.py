"""A step is the sum of its named parts."""

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.breakdown import PARTS, Breakdown

seconds = st.floats(0, 1e3)


@given(st.lists(seconds, min_size=len(PARTS), max_size=len(PARTS)))
def test_parts_sum_to_the_step(values: list[float]) -> None:
    breakdown = Breakdown(*values)
    assert breakdown.step_seconds == sum(values)
    assert tuple(breakdown.parts()) == PARTS


def test_rows_of_arrays_are_floats() -> None:
    breakdown = Breakdown(forward_seconds=np.array([1.0, 2.0]), idle_seconds=np.array([0.5, 0.25]))
    row = breakdown.row(1)
    assert row.forward_seconds == 2.0
    assert row.step_seconds == 2.25
    assert all(isinstance(getattr(row, field.name), float) for field in fields(row))
