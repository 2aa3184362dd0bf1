"""Closed form, simulator and lowered program agree: composition is found twice, independently."""

import numpy as np
import pytest

from planner.cost.estimate import estimate
from planner.offload import Offload
from planner.plan import Plan, Recompute
from planner.recompute import Module
from planner.work.lower import lower
from planner.work.program import program_flops
from simulator.play import play_plan
from tests.scenes import cluster, job, sample, stack

SCENES = (
    ("gpt3-6.7B", 16, "megatron-core", 1e-4, 0.02),
    ("gpt3-6.7B", 16, "megatron-lm-2022", 1e-6, 0.02),
    ("mixtral-8x7b", 16, "megatron-core", 1e-4, 0.02),
    ("gpt3-175B", 64, "megatron-core", 1e-3, 0.03),
    ("resnet-50", 8, "pytorch-eager", 5e-3, 0.05),  # transfers as long as the stages of a CNN queue for each other
)
"""Model, devices, stack, and how far closed form and simulation may differ: in the median, at worst."""


@pytest.mark.parametrize(("model", "num_devices", "software", "median", "worst"), SCENES)
def test_estimate_and_simulation_agree(
    model: str, num_devices: int, software: str, median: float, worst: float
) -> None:
    """Of plans sampled over the whole space."""
    work, devices, stack_ = job(model), cluster(num_devices), stack(software)
    errors = []
    for plan in sample(work, devices, 40):
        played = play_plan(plan, work, devices, stack_).step_seconds
        errors.append(abs(estimate(plan, work, devices, stack_).step_seconds / played - 1.0))
    assert np.median(errors) < median
    assert max(errors) < worst


SHARDED = (
    Plan(dp=16), Plan(dp=16, zero_stage=1), Plan(dp=16, zero_stage=2), Plan(dp=16, zero_stage=3),
    Plan(dp=8, tp=2, zero_stage=3, reshard_after_forward=False), Plan(dp=16, zero_stage=3, dp_replicate=2),
    Plan(dp=8, pp=2, zero_stage=3, reshard_after_forward=False),
)  # fmt: skip


@pytest.mark.parametrize("plan", SHARDED, ids=str)
@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b"])
@pytest.mark.parametrize("contention", [0.0, 0.3, 1.0])
def test_sharded_data_parallelism_agrees(plan: Plan, model: str, contention: float) -> None:
    """Exactly on one stage; under a pipeline the slowed backwards of the stages are taken as equal."""
    work, devices, software = job(model), cluster(16), stack("torchtitan", dp_contention_fraction=contention)
    played = play_plan(plan, work, devices, software)
    estimated = estimate(plan, work, devices, software)
    assert estimated.step_seconds == pytest.approx(played.step_seconds, rel=1e-9 if plan.pp == 1 else 0.03)
    if plan.pp == 1:
        assert estimated.breakdown.dp_seconds == pytest.approx(played.breakdown.dp_seconds, rel=1e-6)


@pytest.mark.parametrize("plan", [
    Plan(dp=8, pp=2, zero_stage=3),
    Plan(dp=4, pp=4, zero_stage=3, schedule="gpipe"),
    Plan(dp=4, pp=2, vp=4, cp=2, schedule="interleaved", zero_stage=3),
    Plan(dp=4, pp=2, vp=4, cp=2, schedule="breadth-first", zero_stage=3),
    Plan(dp=4, pp=4, zero_stage=3, schedule="zb-h1"),
    Plan(dp=4, pp=4, zero_stage=3, vp=2, schedule="zb-v"),
], ids=str)  # fmt: skip
def test_stages_that_gather_again_agree(plan: Plan) -> None:
    """Their reductions queue with the gathers of the last backward; earlier chunks may hide some of it."""
    work, devices, software = job(), cluster(16), stack()
    played = play_plan(plan, work, devices, software).step_seconds
    assert estimate(plan, work, devices, software).step_seconds == pytest.approx(played, rel=0.01)


def test_full_contention_is_no_overlap() -> None:
    work, devices = job(), cluster(16)
    plan = Plan(dp=16, zero_stage=3)
    lost = estimate(plan, work, devices, stack("torchtitan", dp_contention_fraction=1.0))
    none = estimate(plan, work, devices, stack("torchtitan", dp_overlap=False))
    assert lost.step_seconds == pytest.approx(none.step_seconds)


@pytest.mark.parametrize("plan", [
    Plan(dp=2, tp=4, pp=2),
    Plan(tp=2, pp=8, recompute=Recompute.FULL),
    Plan(tp=2, pp=8, recompute=Recompute.FULL, recompute_layers=3),
    Plan(tp=2, pp=8, recompute=Recompute.SELECTIVE, recompute_modules=Module.MLP | Module.LAYERNORM),
    Plan(tp=2, pp=8, recompute=Recompute.OPERATORS),
    Plan(dp=2, tp=2, pp=4, offload=Offload.OPTIMIZER | Offload.ACTIVATIONS),
], ids=str)  # fmt: skip
def test_parts_agree(plan: Plan) -> None:
    work, devices, software = job(), cluster(16), stack()
    estimated = estimate(plan, work, devices, software).breakdown.parts()
    played = play_plan(plan, work, devices, software).breakdown.parts()
    step = sum(played.values())
    for part, seconds in estimated.items():
        assert seconds == pytest.approx(played[part], abs=0.01 * step), part


def test_programs_run_the_flops_that_are_priced() -> None:
    """With peak FLOP/s as the only cost, compute time is FLOPs over peak."""
    plan, work, devices, software = Plan(pp=2, tp=4), job(), cluster(8), stack()
    curve = devices.kernels.gemm["bf16"].model_copy(
        update={
            "compute_efficiency_fraction": 1.0, "memory_efficiency_fraction": 1e9, "launch_seconds": 0.0,
            "inner_seconds": 0.0, "misaligned_factor": 1.0, "misaligned_batched_factor": 1.0,
        }
    )  # fmt: skip
    elementwise = devices.kernels.elementwise.model_copy(
        update={"memory_efficiency_fraction": 1e9, "launch_seconds": 0.0}
    )
    kernels = devices.kernels.model_copy(update={"gemm": {"bf16": curve}, "elementwise": elementwise, "sustained": {}})
    unfused = software.model_copy(update={"attention_kernel": "unfused"})
    ideal = devices.model_copy(update={"kernels": kernels})
    program = lower(plan, work, unfused)
    simulation = play_plan(plan, work, ideal, unfused)
    compute = sum(
        parts[name]
        for rank in range(plan.pp)
        for parts in [simulation.breakdown_of(rank).parts()]
        for name in ("forward", "backward", "recompute")
    )
    assert compute == pytest.approx(program_flops(program) / devices.accelerator.flops_per_second("bf16"), rel=1e-6)
