"""A waterfall: from the time that the model's FLOPs take at the datasheet's peak to the predicted step, loss by loss.

The losses add up to the step exactly. What the slowest rank's kernels take beyond the mean rank's is a loss of its
own, so that the efficiency of kernels does not depend on how layers are dealt out to stages.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from planner.choose.explain import PART_WORDS
from planner.cost.estimate import Estimate
from planner.cost.kernels import kernel_seconds
from planner.cost.phase import LOAD_FIELDS, load
from planner.plan import Plan
from planner.work.layers import layer_work, model_flops, sequence
from planner.work.ops import Attention, Elementwise, Gemm, GroupedGemm, HostOp, Kernel, Listed, Message
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

IDEAL = "ideal"
FAMILIES: dict[type[Kernel], str] = {
    Gemm: "matrix_products", Listed: "matrix_products", GroupedGemm: "experts", Attention: "attention",
    Elementwise: "elementwise",
}  # fmt: skip
"""Kinds of kernels whose losses are told apart."""

LOSS_WORDS = {
    IDEAL: "model FLOPs at the datasheet's peak",
    "uncounted": "FLOPs run over those counted (a causal mask skips half)",
    "clock": "clocks under load below the datasheet's",
    "matrix_products": "matrix products below that peak",
    "experts": "experts' grouped products below that peak",
    "attention": "attention below that peak",
    "elementwise": "norms, activations and other memory-bound kernels",
    "offload": "copies to and from the host that outlast compute",
    "imbalance": "the slowest stage's kernels over the mean stage's",
    **{part: words for part, words in PART_WORDS.items() if part not in ("forward", "backward")},
}
"""Loss -> what it is, in the order of the waterfall."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One step of the waterfall; the first is the ideal. Negative seconds are a gain."""

    name: str
    seconds: float

    @property
    def words(self) -> str:
        """What it is."""
        return LOSS_WORDS[self.name]


@dataclass(frozen=True, slots=True)
class _Kernels:
    """All kernels of one family over a step, on the mean rank."""

    seconds: float
    flops: float
    clock_seconds: float
    """What clocks below the datasheet's take of `seconds`, at least."""


def losses(answer: Estimate, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> list[Loss]:
    """Where the predicted step of one plan goes, from the ideal; the seconds sum to `answer.step_seconds`.

    The ideal is a step at an MFU of 1 [Chowdhery 2022, arXiv:2204.02311, appendix B]. A family of kernels loses
    what it takes beyond its own FLOPs at that peak. Losses of no seconds are left out.
    """
    assert isinstance(answer.plan, Plan)
    peak = cluster.accelerator.flops_per_second(job.compute_dtype)
    families = _families(answer.plan, job, cluster, stack)
    ideal = model_flops(job) / cluster.num_devices / peak
    run = sum(kernels.flops for kernels in families.values()) / peak
    mean = sum(kernels.seconds for kernels in families.values())
    parts = {part: float(seconds) for part, seconds in answer.breakdown.parts().items()}
    slowest = parts.pop("forward") + parts.pop("backward")
    found = {IDEAL: ideal, "uncounted": run - ideal}
    found["clock"] = sum(kernels.clock_seconds for kernels in families.values())
    for name, kernels in families.items():
        found[name] = kernels.seconds - kernels.flops / peak - kernels.clock_seconds
    found["offload"] = _exposed_copies(answer.plan, job, cluster, stack)
    found["imbalance"] = slowest - mean - found["offload"]
    found |= parts
    smallest = 1e-9 * float(answer.step_seconds)
    return [Loss(name, found[name]) for name in LOSS_WORDS if abs(found.get(name, 0.0)) > smallest]


def _exposed_copies(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> float:
    """Seconds of the step that copies to and from the host outlast compute, on the mean rank of the pipeline."""
    passes = [0.0, 0.0]
    for kind, layers in Counter(sequence(job.model)).items():
        work = layer_work(job, kind, plan, stack)
        for index, one in enumerate((work.forward, work.backward)):
            row = dict(zip(LOAD_FIELDS, load(one, plan, cluster, stack), strict=True))
            passes[index] += layers * float(row["copy"] - row["compute"] - row["recompute"])
    return sum(max(seconds, 0.0) for seconds in passes) * plan.num_microbatches(job.global_batch) / plan.pp


def _families(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> dict[str, _Kernels]:
    """The forward and backward kernels of the step by family, on the mean rank of the pipeline."""
    seconds: dict[str, float] = defaultdict(float)
    flops: dict[str, float] = defaultdict(float)
    clock: dict[str, float] = defaultdict(float)
    repeats = plan.num_microbatches(job.global_batch) / plan.pp
    for op, count in _kernels(plan, job, stack):
        name = FAMILIES[type(op)]
        seconds[name] += repeats * count * float(kernel_seconds(op, cluster))
        flops[name] += repeats * count * float(op.flops)
        clock[name] += repeats * count * _clock_seconds(op, cluster)
    return {name: _Kernels(seconds[name], flops[name], clock[name]) for name in seconds}


def _kernels(plan: Plan, job: TrainingJob, stack: SoftwareStack) -> Iterator[tuple[Kernel, float]]:
    """Every kernel of one microbatch's forward and backward pass through all layers, with how often it runs."""
    for kind, layers in Counter(sequence(job.model)).items():
        work = layer_work(job, kind, plan, stack)
        for op, count in (*work.forward.ops, *work.backward.ops):
            if not isinstance(op, Message | HostOp):
                yield op, layers * float(count)


def _clock_seconds(op: Kernel, cluster: Cluster) -> float:
    """FLOPs / (sustained peak) - FLOPs / peak: what the clock under load costs at least.

    Kernels that train faster than their benchmarks did owe it to something else, and count as no gain here.
    """
    if isinstance(op, Elementwise):
        return 0.0
    kept = cluster.kernels.sustained_fraction(op.dtype, attention=isinstance(op, Attention))
    sustained = min(kept, 1.0)
    return float(op.flops) / cluster.accelerator.flops_per_second(op.dtype) * (1.0 / sustained - 1.0)
