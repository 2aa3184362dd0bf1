"""The closed forms: one formula for one plan or many, totals that are sums, and physics that holds."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.estimate import estimate
from planner.cost.metrics import mfu, model_flops_per_second_per_device, tokens_per_second
from planner.cost.overlap import exposed_seconds
from planner.plan import Plan, PlanGrid, Recompute
from profiles.cluster import Cluster
from tests.scenes import cluster, job, sample, stack


@cache
def some_plans(model: str, num_devices: int, count: int = 60) -> PlanGrid:
    """A sample of the legal plans."""
    return sample(job(model), cluster(num_devices), count)


@cache
def usual_seconds(model: str) -> Any:
    """Steps of those plans on the usual cluster."""
    return estimate(some_plans(model, 16), job(model), cluster(16), stack()).step_seconds


@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b", "t5-11b", "resnet-50"])
def test_a_grid_and_its_plans_cost_the_same(model: str) -> None:
    plans = some_plans(model, 16, 30)
    together = estimate(plans, job(model), cluster(16), stack())
    for row, plan in enumerate(plans):
        alone = estimate(plan, job(model), cluster(16), stack())
        assert alone.step_seconds == pytest.approx(together.step_seconds[row], rel=1e-12)
        assert alone.breakdown.parts() == pytest.approx(together.row(row).breakdown.parts(), rel=1e-9, abs=1e-15)
        assert alone.memory.parts() == pytest.approx(together.row(row).memory.parts(), rel=1e-12)


def faster_network(tier: int, factor: float) -> Cluster:
    base = cluster(16)
    tiers = list(base.tiers)
    rate = tiers[tier].bytes_per_second * factor
    tiers[tier] = tiers[tier].model_copy(update={"bytes_per_second": rate})
    return base.model_copy(update={"tiers": tuple(tiers)})


@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b"])
@given(tier=st.sampled_from([0, 1]), factor=st.floats(1.0, 100.0))
@settings(max_examples=12)
def test_more_bandwidth_is_never_slower(model: str, tier: int, factor: float) -> None:
    after = estimate(some_plans(model, 16), job(model), faster_network(tier, factor), stack()).step_seconds
    assert np.all(after <= usual_seconds(model) * (1 + 1e-12))


@given(factor=st.floats(1.0, 100.0), field=st.sampled_from(["memory_bytes_per_second", "peak_flops_per_second"]))
@settings(max_examples=12)
def test_a_faster_accelerator_is_never_slower(factor: float, field: str) -> None:
    base = cluster(16)
    old = getattr(base.accelerator, field)
    new = {dtype: rate * factor for dtype, rate in old.items()} if isinstance(old, dict) else old * factor
    faster = base.model_copy(update={"accelerator": base.accelerator.model_copy(update={field: new})})
    after = estimate(some_plans("gpt3-6.7B", 16), job("gpt3-6.7B"), faster, stack()).step_seconds
    assert np.all(after <= usual_seconds("gpt3-6.7B") * (1 + 1e-12))


def test_every_part_is_at_least_zero_and_the_step_is_their_sum() -> None:
    plans = some_plans("gpt3-6.7B", 16, 500)
    priced = estimate(plans, job(), cluster(16), stack("megatron-lm-2022"))
    parts = priced.breakdown.parts()
    assert all(np.all(np.asarray(seconds) >= 0.0) for seconds in parts.values())
    assert np.allclose(sum(parts.values()), priced.step_seconds)


def test_a_single_device_has_no_communication_and_no_bubble() -> None:
    priced = estimate(Plan(micro_batch=2), job("gpt2", sequence_length=1024), cluster(1), stack())
    parts = priced.breakdown.parts()
    assert all(parts[name] == 0.0 for name in ("tp", "cp", "ep", "pp", "dp", "idle"))


def test_the_bubble_is_the_textbook_fraction() -> None:
    """(p - 1) / (m + p - 1) of the step, for stages that are nearly equal and a network that costs nothing."""
    plan = Plan(pp=4, micro_batch=1)
    priced = estimate(plan, job("gpt3-175B", global_batch=12), cluster(4), stack())
    fraction = priced.breakdown.idle_seconds / (priced.step_seconds - priced.breakdown.optimizer_seconds)
    assert fraction == pytest.approx(3 / 15, rel=0.03)


def test_recomputation_trades_time_for_memory() -> None:
    none, selective, full = (
        estimate(Plan(dp=8, recompute=policy), job("gpt2-xl"), cluster(8), stack("megatron-lm-2022"))
        for policy in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)
    )
    assert none.step_seconds < selective.step_seconds < full.step_seconds
    assert none.memory.peak_bytes > selective.memory.peak_bytes > full.memory.peak_bytes


def test_a_sharded_optimizer_updates_less() -> None:
    whole, sharded = (estimate(Plan(dp=8, zero_stage=stage), job("gpt2-xl"), cluster(8), stack()) for stage in (0, 1))
    assert sharded.breakdown.optimizer_seconds < whole.breakdown.optimizer_seconds / 4
    assert sharded.memory.peak_bytes < whole.memory.peak_bytes


def test_host_launches_are_a_floor_not_an_addend() -> None:
    """A small model is ruled by its launches; a large one does not notice them."""
    slow_host = stack("megatron-lm-2022", host_seconds_per_launch=28e-6)
    no_host = stack("megatron-lm-2022", host_seconds_per_launch=0.0)
    small, large = job("gpt2", sequence_length=128, global_batch=8), job("gpt3-6.7B", global_batch=8)

    def cost(work: object, host: object) -> float:
        return estimate(Plan(dp=1, micro_batch=4), work, cluster(1), host).step_seconds  # type: ignore[arg-type]

    assert cost(small, slow_host) > 1.2 * cost(small, no_host)
    assert cost(large, slow_host) < 1.02 * cost(large, no_host)


@pytest.mark.parametrize("fraction", [0.9, 0.5])
def test_slower_element_wise_kernels_cost_compute_and_nothing_else(fraction: float) -> None:
    """They move the same bytes: only forward and backward grow, by less than all of them would."""
    work, devices, plan = job("gpt3-6.7B"), cluster(8), Plan(dp=2, tp=4)
    base, slower = (
        estimate(plan, work, devices, stack(elementwise_efficiency_fraction=share)).breakdown.parts()
        for share in (1.0, fraction)
    )
    changed = {part for part in base if slower[part] != pytest.approx(base[part])}
    assert changed == {"forward", "backward"}
    assert all(base[part] < slower[part] < base[part] / fraction for part in changed)


@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 100))
def test_overlap_hides_no_more_than_the_compute(communication: float, compute: float, buckets: int) -> None:
    exposed = exposed_seconds(np.array(communication), np.array(compute), np.array(float(buckets)), overlaps=True)
    assert communication / buckets - 1e-12 <= exposed <= communication
    assert exposed >= communication - compute - 1e-12
    assert exposed_seconds(np.array(communication), np.array(compute), np.array(1.0), overlaps=False) == communication


def test_metrics_follow_from_the_step() -> None:
    work, devices = job("gpt3-175B", global_batch=1536), cluster(1024)
    assert tokens_per_second(10.0, work) == 1536 * 2048 / 10
    per_device = model_flops_per_second_per_device(10.0, work, devices)
    assert mfu(10.0, work, devices) == pytest.approx(per_device / 312e12)
    assert per_device == pytest.approx(6 * 175e9 * 1536 * 2048 / 10 / 1024, rel=0.05)
