"""The order of ranks: who sits beside whom, and over which tier each axis talks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.search import search
from planner.cost.collectives import members_within, message_seconds
from planner.cost.estimate import estimate
from planner.cost.groups import group_of
from planner.cost.phase import priced_message
from planner.order import ORDER_NAMES
from planner.plan import Plan
from planner.work.ops import Message
from tests.scenes import cluster, job, stack

TWOS = st.sampled_from([1, 2, 4])
SPLITS = st.builds(Plan, tp=TWOS, cp=TWOS, dp=TWOS, pp=TWOS, order=st.sampled_from(ORDER_NAMES))


def test_groups_of_the_axes() -> None:
    plan = Plan(dp=4, tp=2, pp=8, cp=2, ep=4, etp=2, cp_a2a=2)
    assert group_of("tp", plan)[:2] == (2, 1)
    assert group_of("cp", plan)[:2] == (2, 2)
    assert group_of("ep", plan)[:2] == (4, 2)
    assert group_of("dp", plan)[:2] == (8, 2)
    assert group_of("edp", plan)[:2] == (2, 8)
    assert group_of("etp", plan)[:2] == (2, 1)
    assert group_of("cp_a2a", plan)[:2] == (2, 2)
    assert group_of("cp_ring", plan)[:2] == (1, 4)
    folded = Plan(dp=4, tp=2, pp=8, cp=2, ep=8)
    assert group_of("ep", folded)[:2] == (8, 1)
    assert group_of("edp", folded)[:2] == (2, 8)
    assert group_of("pp", plan)[:2] == (2, 16)


@given(SPLITS, st.sampled_from(["tp", "cp", "dp"]))
def test_members_within_a_node_are_those_that_counting_finds(plan: Plan, axis: str) -> None:
    """Number every rank by hand and count the members of the group of rank 0 in its node."""
    devices = cluster(max(8, plan.num_ranks))
    axes = plan.order.split("-")
    shape = [getattr(plan, name) for name in axes]
    places = np.stack(np.unravel_index(np.arange(plan.num_ranks), shape, order="F"))
    joined = {"dp": ("dp", "cp")}.get(axis, (axis,))
    same = [place for place, name in zip(places, axes, strict=True) if name not in joined]
    members = np.flatnonzero(np.all([place == 0 for place in same], axis=0))
    size, stride, block, skip = group_of(axis, plan)
    within = members_within(size, stride, devices, block, skip)
    assert within[0] == np.count_nonzero(members < devices.tiers[0].num_devices)
    assert within[-1] == len(members)


def test_an_axis_is_faster_on_the_inner_tier() -> None:
    """Beside each other in a node, stages hand over faster and replicas sum slower."""
    plan = Plan(dp=8, tp=2, pp=4)
    usual, other = (
        estimate(replace(plan, order=order), job(), cluster(64), stack(dp_overlap=False)).breakdown
        for order in ("tp-cp-dp-pp", "tp-cp-pp-dp")
    )
    assert other.pp_seconds < usual.pp_seconds
    assert other.dp_seconds > usual.dp_seconds


def test_a_message_between_stages_is_the_mean_over_its_hops() -> None:
    """Four stages a node: of seven hops one leaves it."""
    devices, message = cluster(16), Message("pp", "send_recv", 1e8)
    within, across = (float(message_seconds("send_recv", 1e8, 2, stride, devices)) for stride in (2, 8))
    assert float(priced_message(message, Plan(tp=2, pp=8), devices)) == pytest.approx((6 * within + across) / 7)
    assert float(priced_message(message, Plan(tp=8, pp=2), devices)) == pytest.approx(across)


@pytest.mark.parametrize("order", ["tp-cp-dp-pp", "tp-cp-pp-dp"])
def test_the_order_is_searched_and_can_be_held(order: str) -> None:
    work, devices, software = job("gpt3-6.7B"), cluster(32), stack()
    best = search(work, devices, software, top=1).candidates[0]
    held = search(work, devices, software, top=1, fixed={"order": order}).candidates[0]
    assert held.plan.order == order
    assert best.step_seconds <= held.step_seconds


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order='dp-tp'"):
        search(job(), cluster(16), stack(), fixed={"order": "dp-tp"})
