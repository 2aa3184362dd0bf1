"""Plans and grids share field names and say the same thing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.order import ORDER_NAMES
from planner.plan import PLAN_FIELDS, SCHEDULE_NAMES, Plan, PlanGrid, Recompute

degrees = st.sampled_from([1, 2, 3, 4, 8, 16])
plans = st.builds(
    Plan,
    dp=degrees,
    tp=degrees,
    pp=degrees,
    cp=degrees,
    ep=degrees,
    vp=degrees,
    micro_batch=degrees,
    schedule=st.sampled_from(SCHEDULE_NAMES),
    recompute=st.sampled_from(Recompute),
    sequence_parallel=st.booleans(),
    zero_stage=st.integers(0, 3),
    reshard_after_forward=st.booleans(),
    dp_replicate=degrees,
    order=st.sampled_from(ORDER_NAMES),
)


@given(st.lists(plans, max_size=8))
def test_a_grid_holds_its_plans(some: list[Plan]) -> None:
    grid = PlanGrid.of(some)
    assert list(grid) == some
    assert list(grid.num_ranks) == [plan.num_ranks for plan in some]
    assert list(grid.num_microbatches(4096)) == [plan.num_microbatches(4096) for plan in some]


def test_product_is_cartesian() -> None:
    grid = PlanGrid.product(tp=[1, 2], dp=[1, 4], schedule=["gpipe", "1f1b"])
    assert len(grid) == 8
    assert len({tuple(getattr(grid, name)[row] for name in PLAN_FIELDS) for row in range(8)}) == 8
    assert set(grid.pp) == {1}


def test_take_selects_rows() -> None:
    grid = PlanGrid.product(tp=[1, 2, 4])
    assert [plan.tp for plan in grid.take(np.array([2, 0]))] == [4, 1]


def test_recompute_names_its_choices() -> None:
    assert Recompute.parse("full") is Recompute.FULL
    with pytest.raises(ValueError, match="none, selective, full"):
        Recompute.parse("some")


def test_a_plan_reads_as_words() -> None:
    plan = Plan(dp=4, tp=8, pp=2, micro_batch=2, sequence_parallel=True, zero_stage=1, recompute=Recompute.FULL)
    assert str(plan) == "dp4 tp8 pp2 mb2 1f1b sp zero1 recompute=full"
