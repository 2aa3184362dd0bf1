"""A front holds what nothing beats, whichever way it is found."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.pareto import Front, front_mask, front_rows
from planner.plan import Plan, PlanGrid

POINTS = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=30)


@given(POINTS)
def test_a_row_is_on_the_front_unless_another_beats_it(points: list[tuple[int, int]]) -> None:
    costs = np.array(points, dtype=float)
    found = {tuple(costs[row]) for row in front_rows(costs[:, 0], costs[:, 1])}
    assert found == {tuple(row) for row in costs[front_mask(costs)]}


@given(POINTS, st.integers(1, 29))
def test_chunks_give_the_front_of_the_whole(points: list[tuple[int, int]], cut: int) -> None:
    costs = np.array(points, dtype=float)
    plans = PlanGrid.of([Plan(dp=number + 1) for number in range(len(points))])
    front = Front()
    for rows in (np.arange(len(points))[:cut], np.arange(len(points))[cut:]):
        if len(rows):
            front.add(plans.take(rows), costs[rows, 0], costs[rows, 1])
    whole = front_rows(costs[:, 0], costs[:, 1])
    assert front.step_seconds.tolist() == costs[whole, 0].tolist()
    assert front.peak_bytes.tolist() == costs[whole, 1].tolist()
    for plan, seconds, num_bytes in zip(front.plans, front.step_seconds, front.peak_bytes, strict=True):
        assert tuple(costs[plan.dp - 1]) == (seconds, num_bytes)
