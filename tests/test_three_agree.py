"""Closed form, simulator and lowered program agree: composition is found twice, independently."""

import numpy as np
import pytest

from planner.choose.legality import legal
from planner.choose.space import plan_space
from planner.cost.estimate import estimate
from planner.cost.phase import price_program
from planner.plan import Plan, Recompute
from planner.work.lower import lower
from planner.work.program import program_flops
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from simulator.engine import Simulation, simulate
from tests.scenes import cluster, job, stack

SCENES = (
    ("gpt3-6.7B", 16, "megatron-core", 1e-3, 0.03),
    ("gpt3-6.7B", 16, "megatron-lm-2022", 1e-3, 0.03),
    ("mixtral-8x7b", 16, "megatron-core", 1e-3, 0.03),
    ("gpt3-175B", 64, "megatron-core", 1e-3, 0.03),
    ("resnet-50", 8, "pytorch-eager", 1e-2, 0.10),  # stages of a CNN differ, where the closed form is a bound
)
"""Model, devices, stack, and how far closed form and simulation may differ: in the median, at worst."""


def play(plan: Plan, work: TrainingJob, devices: Cluster, software: SoftwareStack) -> Simulation:
    program = lower(plan, work, software)
    prices = price_program(program, devices, software)
    return simulate(program, prices, dp_overlap=software.dp_overlap, pp_overlap=software.pp_overlap)


@pytest.mark.parametrize(("model", "num_devices", "software", "median", "worst"), SCENES)
def test_estimate_and_simulation_agree(
    model: str, num_devices: int, software: str, median: float, worst: float
) -> None:
    """Of plans sampled over the whole space."""
    work, devices, stack_ = job(model), cluster(num_devices), stack(software)
    space = plan_space(work, devices, exhaustive=True)
    rows = np.flatnonzero(legal(space, work, devices)[0])
    errors = []
    for plan in space.take(rows[:: max(1, len(rows) // 40)]):
        played = play(plan, work, devices, stack_).step_seconds
        errors.append(abs(estimate(plan, work, devices, stack_).step_seconds / played - 1.0))
    assert np.median(errors) < median
    assert max(errors) < worst


@pytest.mark.parametrize("plan", [Plan(dp=2, tp=4, pp=2), Plan(tp=2, pp=8, recompute=Recompute.FULL)], ids=str)
def test_parts_agree(plan: Plan) -> None:
    work, devices, software = job(), cluster(16), stack()
    estimated = estimate(plan, work, devices, software).breakdown.parts()
    played = play(plan, work, devices, software).breakdown.parts()
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
    simulation = play(plan, work, ideal, unfused)
    compute = sum(
        parts[name]
        for rank in range(plan.pp)
        for parts in [simulation.breakdown_of(rank).parts()]
        for name in ("forward", "backward", "recompute")
    )
    assert compute == pytest.approx(program_flops(program) / devices.accelerator.flops_per_second("bf16"), rel=1e-6)
