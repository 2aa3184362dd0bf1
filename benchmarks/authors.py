"""The splits that two large runs really used, beside the best plan found: are they in the space, and how far off.

`python -m benchmarks.authors`.
"""

import time
from dataclasses import dataclass

from planner.choose.explain import duration, why_lost
from planner.choose.legality import check_plan
from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.cost.memory import usable_bytes
from planner.plan import Plan
from planner.recompute import Module, Recompute
from profiles import catalog
from profiles.units import GIB
from profiles.workload import Precision, TrainingJob


@dataclass(frozen=True, slots=True)
class Run:
    """A published run: what was trained on what, and how it was split."""

    source: str
    model: str
    cluster: str
    num_devices: int
    global_batch: int
    sequence_length: int
    precision: Precision
    plan: Plan
    note: str
    """What of the split the source does not say, and what was taken for it."""


RUNS = (
    Run(
        "Llama Team 2024, arXiv:2407.21783, table 4 and section 3.3.2: 16 M tokens a step at 400 TFLOP/s a device",
        "llama3.1-405b", "dgx-h100", 16384, 2048, 8192, "bf16",
        Plan(dp=128, tp=8, pp=16, vp=4, schedule="interleaved", sequence_parallel=True, zero_stage=1),
        "vp is not stated; layers are kept whole, without recomputation",
    ),
    Run(
        "DeepSeek-AI 2024, arXiv:2412.19437, section 3.2: 16-way pipeline, 64-way experts over 8 nodes, ZeRO-1, DualPipe",
        "deepseek-v3", "h800-sxm", 2048, 15360, 4096, "fp8",
        Plan(
            dp=128, pp=16, ep=64, zero_stage=1, schedule="dualpipe", recompute=Recompute.SELECTIVE,
            recompute_modules=Module.LAYERNORM | Module.MLA_UP_PROJ,
        ),
        "the microbatch is not stated; 1 is taken",
    ),
)  # fmt: skip


def show(run: Run) -> None:
    """Print one run beside the best plan of its job."""
    job = TrainingJob(
        model=catalog.model(run.model), global_batch=run.global_batch, sequence_length=run.sequence_length,
        precision=run.precision,
    )  # fmt: skip
    cluster, stack = catalog.cluster(run.cluster, run.num_devices), catalog.software("megatron-core")
    stack = stack.model_copy(update={"schedules": tuple(dict.fromkeys((*stack.schedules, run.plan.schedule)))})
    started = time.perf_counter()
    best = search(job, cluster, stack).candidates[0]
    print(f"{run.model} on {run.num_devices:,} {run.cluster}; {run.source}")
    print(f"  searched in   {duration(time.perf_counter() - started)}   (asked: 30 s)")
    print(f"  best found    {best.plan}: {duration(best.step_seconds)}")
    faults = check_plan(run.plan, job, cluster)
    if faults:
        print(f"  authors'      {run.plan}: not in the space: {'; '.join(faults)}")
        return
    theirs = estimate(run.plan, job, cluster, stack)
    over = float(theirs.memory.peak_bytes - usable_bytes(cluster, stack)) / GIB
    fits = "fits" if over <= 0 else f"{over:.1f} GiB more than fit under {stack.name}"
    print(f"  authors'      {run.plan}: {duration(float(theirs.step_seconds))}, {fits}; {run.note}")
    ratio = float(theirs.step_seconds) / best.step_seconds - 1.0
    print(f"  difference    {ratio:+.1%}   (asked: within 10 %): {why_lost(theirs.breakdown, best.estimate.breakdown)}")


def main() -> None:
    """Print every run."""
    for run in RUNS:
        show(run)


if __name__ == "__main__":
    main()
