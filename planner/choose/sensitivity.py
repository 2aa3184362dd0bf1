"""What limits a buyer: the step of a plan, and of the best plan, with a tenth more of each resource."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.plan import Plan
from profiles.calibration import LinkCurves
from profiles.cluster import Cluster, Tier
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

MORE = 1.1
"""How much of a resource there is, over what there is now."""

System = tuple[Cluster, SoftwareStack]
_SCALE_UP = ("scale_up", "pcie", "host")


@dataclass(frozen=True, slots=True)
class Effect:
    """What more of one resource does to the step; fractions of the step today, negative when it gets faster."""

    resource: str
    plan_fraction: float
    """Of the plan asked about, kept as it is."""
    best_fraction: float | None
    """Of the best plan, searched again; None when none fits today."""
    best_plan: Plan | None
    """The best plan with more of the resource."""


def _accelerator(cluster: Cluster, **values: Any) -> Cluster:
    return cluster.model_copy(update={"accelerator": cluster.accelerator.model_copy(update=values)})


def _matmul_rate(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    peaks = {dtype: factor * peak for dtype, peak in cluster.accelerator.peak_flops_per_second.items()}
    return _accelerator(cluster, peak_flops_per_second=peaks), stack


def _memory_rate(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    rate = factor * cluster.accelerator.memory_bytes_per_second
    return _accelerator(cluster, memory_bytes_per_second=rate), stack


def _memory_size(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    return _accelerator(cluster, memory_bytes=factor * cluster.accelerator.memory_bytes), stack


def _tiers(cluster: Cluster, change: Callable[[Tier], Tier]) -> Cluster:
    return cluster.model_copy(update={"tiers": tuple(change(tier) for tier in cluster.tiers)})


def _faster(tier: Tier, factor: float) -> Tier:
    return tier.model_copy(update={"bytes_per_second": factor * tier.bytes_per_second})


def _scale_up_bandwidth(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    return _tiers(cluster, lambda tier: _faster(tier, factor) if tier.link_class in _SCALE_UP else tier), stack


def _scale_out_bandwidth(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    return _tiers(cluster, lambda tier: tier if tier.link_class in _SCALE_UP else _faster(tier, factor)), stack


def _latency(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    def shorter(tier: Tier) -> Tier:
        curves = _shorter(tier.curves, factor)
        return tier.model_copy(update={"latency_seconds": tier.latency_seconds / factor, "curves": curves})

    return _tiers(cluster, shorter), stack


def _shorter(curves: LinkCurves, factor: float) -> LinkCurves:
    """The same curves with all latencies divided by `factor`."""
    found = {
        name: curve.model_copy(update={"latency_seconds": tuple(one / factor for one in curve.latency_seconds)})
        for name, curve in curves.collectives.items()
    }
    return curves.model_copy(update={"collectives": found})


def _host_rate(cluster: Cluster, stack: SoftwareStack, factor: float) -> System:
    seconds = stack.host_seconds_per_launch / factor
    return cluster, stack.model_copy(update={"host_seconds_per_launch": seconds})


RESOURCES: dict[str, Callable[[Cluster, SoftwareStack, float], System]] = {
    "matmul rate": _matmul_rate,
    "memory rate": _memory_rate,
    "memory size": _memory_size,
    "scale-up bandwidth": _scale_up_bandwidth,
    "scale-out bandwidth": _scale_out_bandwidth,
    "latency": _latency,
    "host launch rate": _host_rate,
}
"""What there can be more of (of latency: less), each with the system that has it."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The effects of more of each resource, and the best plan today (None when none fits)."""

    best_plan: Plan | None
    effects: tuple[Effect, ...]


def sensitivity(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Sensitivity:
    """The effect of `MORE` of each resource on the step of `plan` and on that of the best plan.

    Best plans are those of the usual search space by estimate; memory size acts through them alone.
    """
    today = float(estimate(plan, job, cluster, stack).step_seconds)
    best_today = _best(job, cluster, stack)
    effects = []
    for resource, more in RESOURCES.items():
        system = more(cluster, stack, MORE)
        changed = float(estimate(plan, job, *system).step_seconds)
        best = _best(job, *system)
        fraction = best[1] / best_today[1] - 1.0 if best and best_today else None
        effects.append(Effect(resource, changed / today - 1.0, fraction, best[0] if best else None))
    return Sensitivity(best_today[0] if best_today else None, tuple(effects))


def _best(job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> tuple[Plan, float] | None:
    found = search(job, cluster, stack, top=1).candidates
    return (found[0].plan, float(found[0].step_seconds)) if found else None
