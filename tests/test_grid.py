"""Combinations cover every plan, and carry results back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.grid import combinations, gather
from planner.plan import Plan, PlanGrid, Recompute

values = st.lists(st.tuples(st.integers(1, 2**20), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=40)


@given(values)
def test_each_plan_finds_its_combination(rows: list[tuple[int, int, int]]) -> None:
    dp, tp, recompute = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    grid = PlanGrid.of(Plan(dp=d, tp=t, recompute=Recompute(kept)) for d, t, kept in rows)
    chosen, inverse = combinations(grid, ("dp", "tp", "recompute"))
    assert len(chosen) == len(set(rows))
    for name, column in (("dp", dp), ("tp", tp), ("recompute", recompute)):
        assert np.array_equal(gather(getattr(grid, name)[chosen], inverse), column)


def test_an_empty_grid_has_no_combinations() -> None:
    chosen, inverse = combinations(PlanGrid.of([]), ("dp", "tp"))
    assert len(chosen) == len(inverse) == 0
