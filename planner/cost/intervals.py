"""Error bars: where measured step times lay that were predicted like this one."""

from dataclasses import dataclass
from typing import Any

from planner.cost.memory import MemoryBreakdown
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.residuals import PairSpread, Regime, Residuals, shipped_residuals
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

FARTHEST_SCALE = 4
"""Runs tell of clusters up to this many times as large as theirs."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Seconds between which the step is expected to lie, with a share `level_fraction` of runs inside."""

    low_seconds: Any
    high_seconds: Any
    level_fraction: float
    basis: str
    """Which runs the interval rests on, in words."""


def interval(
    step_seconds: Any,
    plan: Plan,
    job: TrainingJob,
    cluster: Cluster,
    stack: SoftwareStack,
    residuals: Residuals | None = None,
) -> Interval:
    """The interval around a predicted step: quantiles of measured over predicted, times the prediction.

    Empirical quantiles of residuals carry over to new runs like those scored, without assuming their
    distribution [Vovk 2005, Algorithmic Learning in a Random World, section 4.1, split conformal prediction].
    They lie off centre where predictions are biased, and are wider the less the runs have in common with the plan.
    """
    record = residuals or shipped_residuals()
    sparse = _is_sparse(job)
    regime, why = regime_of(plan, job, cluster, stack, record)
    spread = (record.sparse if sparse else record.dense)[regime]
    low, high, num_runs, num_sources = spread.low_ratio, spread.high_ratio, spread.num_runs, spread.num_sources
    known = record.known_runs(stack, cluster.accelerator.name, sparse=sparse)
    if regime == "seen" and known and known.low_ratio and known.high_ratio:
        low, high, num_runs, num_sources = known.low_ratio, known.high_ratio, known.num_runs, known.num_sources
    kind = "mixture-of-experts" if sparse else "dense"
    sources = f"{num_sources} source{'s' if num_sources > 1 else ''}"
    return Interval(
        low_seconds=step_seconds * low,
        high_seconds=step_seconds * high,
        level_fraction=record.level_fraction,
        basis=f"{num_runs:,} published runs of {kind} models from {sources}{why}",
    )


_AXIS_WORDS = {"sharded": "sharded gradients"}


def regime_of(
    plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack, residuals: Residuals
) -> tuple[Regime, str]:
    """How near the record's runs are to a plan, and in words what they lack."""
    device = cluster.accelerator.name
    known = residuals.known_runs(stack, device, sparse=_is_sparse(job))
    is_enough = known is not None and known.low_ratio is not None
    if device not in cluster.kernels.accelerators and not is_enough:
        return "unmeasured", f", as if their accelerators were as unmeasured as {device}: no kernel of it was timed"
    apart = ", each predicted without its source:"
    if not isinstance(job.model, TransformerShape):
        return "new", f"{apart} none is of such a model"
    if known is None:
        return "new", f"{apart} none is of a stack like {stack.name} on {device}"
    those = f"{' and '.join(known.stacks)} on {device}"
    lacking = [_AXIS_WORDS.get(axis, axis) for axis in axes_of(plan) if axis not in known.axes]
    if job.precision not in known.precisions:
        lacking.append(job.precision)
    if lacking:
        return "new", f"{apart} none of {those} has {' or '.join(lacking)}"
    if plan.num_ranks > FARTHEST_SCALE * known.max_devices:
        return "new", f"{apart} those of {those} end at {known.max_devices:,} devices"
    return "seen", f" with {those}" if is_enough else f", {known.num_runs:,} of them with {those}"


def axes_of(plan: Plan) -> tuple[str, ...]:
    """Parallel axes that a plan uses beside dp, and "sharded" where gradients or parameters are."""
    used = tuple(axis for axis in ("tp", "pp", "cp", "ep") if getattr(plan, axis) > 1)
    return (*used, "sharded") if plan.zero_stage > 1 else used


def within_error(
    seconds: float, plan: Plan, best_seconds: float, best: Plan, residuals: Residuals | None = None
) -> bool:
    """Whether a plan is predicted slower than the best by less than such predictions miss.

    Two plans of one job on one cluster share most of what is wrong about either, so that their ratio is known
    better than their times: the spread is that of pairs of published runs that differ in nothing but their plan.
    """
    return bool(seconds <= best_seconds * pair_spread(plan, best, residuals or shipped_residuals()).miss_ratio)


def pair_spread(one: Plan, other: Plan, residuals: Residuals) -> PairSpread:
    """The spread for two plans, by whether they split the model alike."""
    alike = all(getattr(one, axis) == getattr(other, axis) for axis in ("tp", "pp", "cp", "ep"))
    return residuals.same_split if alike else residuals.other_split


@dataclass(frozen=True, slots=True)
class MemoryInterval:
    """Bytes between which the measured peak of a reading is expected to lie."""

    low_bytes: float
    high_bytes: float
    level_fraction: float
    num_runs: int
    num_sources: int


def memory_intervals(memory: MemoryBreakdown, residuals: Residuals | None = None) -> dict[str, MemoryInterval]:
    """By reading ("allocated", "reserved", "device"): quantiles of measured over predicted, times the prediction.

    As `interval` [Vovk 2005]. Readings without runs are left out.
    """
    record = residuals or shipped_residuals()
    predicted = {
        "allocated": memory.allocated_bytes, "reserved": memory.reserved_bytes, "device": memory.device_bytes,
    }  # fmt: skip
    return {
        reading: MemoryInterval(
            low_bytes=float(predicted[reading]) * spread.low_ratio,
            high_bytes=float(predicted[reading]) * spread.high_ratio,
            level_fraction=record.level_fraction,
            num_runs=spread.num_runs,
            num_sources=spread.num_sources,
        )
        for reading, spread in record.memory.items()
    }


def _is_sparse(job: TrainingJob) -> bool:
    return getattr(job.model, "moe", None) is not None
