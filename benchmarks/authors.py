"""The splits that two large runs really used, beside the best plan found: are they in the space, and how far off.

`python -m benchmarks.authors`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.choose.explain import duration, why_lost
from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.cost.memory import usable_bytes
from planner.work.layers import model_flops
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.units import GIB, HOUR, MEGA, TERA
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
    stated: Mapping[str, int | str | bool]
    """The plan fields that the source states; the others are searched."""
    software: Mapping[str, Any] = field(default_factory=dict)
    """What the source states of its software, over megatron-core."""
    device_flops_per_second: float | None = None
    """Model FLOP/s of a device, as published."""
    device_seconds_per_token: float | None = None
    """The same as device time over tokens trained."""

    def measured_seconds(self, job: TrainingJob) -> float:
        """The step that the published figure means."""
        if self.device_flops_per_second:
            return model_flops(job) / self.num_devices / self.device_flops_per_second
        assert self.device_seconds_per_token
        return self.device_seconds_per_token * job.tokens_per_step / self.num_devices


RUNS = (
    Run(
        "Llama Team 2024, arXiv:2407.21783, table 4 and section 3.3.2: 400 TFLOP/s a device, without recomputation",
        "llama3.1-405b", "dgx-h100", 16384, 2048, 8192, "bf16",
        {
            "tp": 8, "cp": 1, "pp": 16, "vp": 8, "schedule": "interleaved", "recompute": "none",
            "sequence_parallel": True,
        },  # 128 chunks: the first holds the embedding alone, the last the head
        device_flops_per_second=400 * TERA,
    ),
    Run(
        "DeepSeek-AI 2024, arXiv:2412.19437, section 3.2: pipeline of 16, experts over 64 ranks, ZeRO-1, DualPipe",
        "deepseek-v3", "h800-sxm", 2048, 15360, 4096, "fp8",
        {
            "tp": 1, "cp": 1, "pp": 16, "ep": 64, "schedule": "dualpipe", "zero_stage": 1, "recompute": "selective",
            "micro_batch": 1,
        },  # the microbatch is ours: the smallest, since no plan of theirs fits under this stack
        {
            # sections 3.2.1, 3.2.2, 3.3.2 and 3.3.3: beside compute, on 20 of 132 multiprocessors, to experts in FP8
            "expert_dispatch": "deepep", "expert_dispatch_precision": "fp8", "ep_exposed_fraction": 20 / 132,
            "moment_bytes": 2.0, "narrow_saved": "activation inputs",
        },
        device_seconds_per_token=2.664 * MEGA * HOUR / (14.8 * TERA),  # table 1 and section 4.1
    ),
)  # fmt: skip


def show(run: Run) -> None:
    """Print one run beside the best plan of its job."""
    job = TrainingJob(
        model=catalog.model(run.model), global_batch=run.global_batch, sequence_length=run.sequence_length,
        precision=run.precision,
    )  # fmt: skip
    cluster, stack = catalog.cluster(run.cluster, run.num_devices), catalog.software("megatron-core")
    schedules = tuple(dict.fromkeys((*stack.schedules, str(run.stated["schedule"]))))
    stack = stack.model_copy(update={**run.software, "schedules": schedules})
    started = time.perf_counter()
    best = search(job, cluster, stack).candidates[0]
    print(f"{run.model} on {run.num_devices:,} {run.cluster}; {run.source}")
    print(f"  searched in   {duration(time.perf_counter() - started)}   (asked: 30 s)")
    print(f"  best found    {best.plan}: {duration(best.step_seconds)}")
    fitting = search(job, cluster, stack, fixed=run.stated, top=1)
    roomy = cluster.model_copy(update={"accelerator": twice_the_memory(cluster.accelerator)})
    found = fitting.candidates or search(job, roomy, stack, fixed=run.stated, top=1).candidates
    if not found:
        rules = ", ".join(fitting.rejected) or "no split has these degrees"
        print(f"  authors'      not in the space: {rules}")
        return
    theirs = estimate(found[0].plan, job, cluster, stack)
    over = float(theirs.memory.peak_bytes - usable_bytes(cluster, stack)) / GIB
    fits = "fits" if fitting.candidates else f"{over:.1f} GiB more than fit under {stack.name}"
    print(f"  authors'      {found[0].plan}: {duration(float(theirs.step_seconds))}, {fits}")
    measured = run.measured_seconds(job)
    error = float(theirs.step_seconds) / measured - 1.0
    print(f"  published     {duration(measured)} a step; the estimate of the authors' plan is {error:+.1%} off")
    ratio = float(theirs.step_seconds) / best.step_seconds - 1.0
    print(f"  difference    {ratio:+.1%}   (asked: within 10 %): {why_lost(theirs.breakdown, best.estimate.breakdown)}")


def twice_the_memory(accelerator: Accelerator) -> Accelerator:
    """The same device with twice the memory, to price a split that does not fit."""
    return accelerator.model_copy(update={"memory_bytes": 2.0 * accelerator.memory_bytes})


def main() -> None:
    """Print every run."""
    for run in RUNS:
        show(run)


if __name__ == "__main__":
    main()
