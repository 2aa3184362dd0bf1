"""Messages that run layer by layer: counted once for each layer, beside the right neighbour, and conserved."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.estimate import estimate
from planner.cost.layered import LayerTimes, backward_exposed_seconds, forward_exposed_seconds, layer_prices
from planner.cost.overlap import added_seconds
from planner.plan import Plan, PlanGrid
from planner.work.actions import Kind
from planner.work.layers import layer_parameters, sequence
from planner.work.lower import lower
from planner.work.program import program_bytes
from planner.work.sharding import Slot, layer_slots
from tests.scenes import cluster, job, stack

COUNTS = {"embedding": 1, "dense": 3, "moe": 2, "head": 1}
seconds = st.floats(0.0, 10.0)


def times(gather: float, reduce: float, again: bool = True) -> dict[str, LayerTimes]:
    return {kind: LayerTimes(1.0, 2.0, gather, gather * again, reduce) for kind in COUNTS}


def test_slots_cover_every_layer_once() -> None:
    slots = layer_slots(COUNTS)
    assert sum(slots.values()) == sum(COUNTS.values())
    assert slots[Slot(None, "embedding", "dense")] == 1
    assert slots[Slot("dense", "dense", "dense")] == 1
    assert slots[Slot("moe", "head", None)] == 1


@given(seconds, seconds, st.floats(0.0, 1.0))
def test_overlap_costs_between_nothing_and_everything(compute: float, messages: float, contention: float) -> None:
    added = added_seconds(compute, messages, contention)
    assert -1e-12 <= max(messages - compute, 0.0) <= added + 1e-12
    assert added <= messages + 1e-12


@given(seconds, seconds)
def test_without_overlap_every_message_is_added(gather: float, reduce: float) -> None:
    slots, kinds = layer_slots(COUNTS), times(gather, reduce)
    num_layers = sum(COUNTS.values())
    assert forward_exposed_seconds(slots, kinds, 1.0) == pytest.approx(num_layers * gather)
    assert backward_exposed_seconds(slots, kinds, 1.0) == pytest.approx(num_layers * (gather + reduce))


def test_with_overlap_only_the_ends_are_exposed() -> None:
    slots, kinds = layer_slots(COUNTS), times(0.5, 0.25)
    assert forward_exposed_seconds(slots, kinds, 0.0) == pytest.approx(0.5)
    assert backward_exposed_seconds(slots, kinds, 0.0) == pytest.approx(0.5 + 0.25)


def test_layer_prices_share_out_the_whole_action() -> None:
    order = ("embedding", "dense", "dense", "head")
    prices = layer_prices(Kind.BACKWARD, order, times(0.5, 0.25) | {"head": LayerTimes(1.0, 2.0, 0.5, 0.0, 0.25)})
    assert sum(price.compute_fraction for price in prices) == pytest.approx(1.0)
    assert prices[0].gather_seconds == 0.0  # the head runs backward first, and stayed gathered


@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b"])
def test_bytes_follow_the_sharding(model: str) -> None:
    """ZeRO-3 gathers twice what ZeRO-1 gathers (but the ends once), a microbatch; gradients are reduced once each."""
    work, software = job(model, global_batch=16), stack(gradient_bytes=4.0)
    held = {kind: sum(map(float, layer_parameters(work.model, kind, Plan()))) for kind in set(sequence(work.model))}
    total = sum(held[kind] for kind in sequence(work.model))
    ends = held["embedding"] + held["head"]

    def moved(**fields: int | bool) -> float:
        moved = program_bytes(lower(Plan(dp=8, **fields), work, software))
        return sum(float(amount) for axis, amount in moved.items() if "dp" in axis)

    assert moved(zero_stage=1) == pytest.approx((4.0 + 2.0) * total)
    assert moved(zero_stage=2) == pytest.approx((2 * 4.0 + 2.0) * total)
    assert moved(zero_stage=3, reshard_after_forward=False) == pytest.approx(2 * (4.0 + 2.0) * total)
    assert moved(zero_stage=3) == pytest.approx(2 * (4.0 + 2.0 + 2.0) * total - 2 * 2.0 * ends)


def test_a_grid_is_priced_like_its_plans() -> None:
    grid = PlanGrid.product(dp=[8], zero_stage=[0, 1, 2, 3], dp_replicate=[1, 2], micro_batch=[1, 2])
    together = estimate(grid, job(), cluster(8), stack()).step_seconds
    alone = [estimate(plan, job(), cluster(8), stack()).step_seconds for plan in grid]
    assert np.allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_bandwidth_is_never_slower(stage: int) -> None:
    devices = cluster(16)
    outer = devices.tiers[-1]
    steps = []
    for factor in (0.25, 1.0, 4.0):
        tier = outer.model_copy(update={"bytes_per_second": factor * outer.bytes_per_second})
        faster = devices.model_copy(update={"tiers": (*devices.tiers[:-1], tier)})
        steps.append(estimate(Plan(dp=16, zero_stage=stage), job(), faster, stack()).step_seconds)
    assert steps == sorted(steps, reverse=True)


def test_replica_groups_move_gathers_into_the_node() -> None:
    """On a slow network, sharding within nodes is faster than sharding over all."""
    devices = cluster(16)
    outer = devices.tiers[-1].model_copy(update={"bytes_per_second": devices.tiers[-1].bytes_per_second / 50.0})
    slow = devices.model_copy(update={"tiers": (*devices.tiers[:-1], outer)})
    plan = Plan(dp=16, zero_stage=3)
    whole = estimate(plan, job(), slow, stack()).step_seconds
    within = estimate(replace(plan, dp_replicate=2), job(), slow, stack()).step_seconds
    assert within < whole
