"""How fast a job goes on one cluster: its best plan, the error bar of its step, or why none fits."""

from dataclasses import dataclass

from planner.breakdown import Breakdown
from planner.choose.requirements import Scenario
from planner.choose.search import Answer, search
from planner.cost.goodput import checkpoint_bytes
from planner.cost.intervals import interval
from planner.cost.memory import usable_bytes
from planner.cost.metrics import mfu
from planner.plan import Plan
from profiles.units import GIB


@dataclass(frozen=True, slots=True)
class Pace:
    """The fastest plan of a job on one cluster, by estimate. Prices are no part of it, so offers can share it."""

    plan: Plan
    breakdown: Breakdown
    low_seconds: float
    """Of a step: runs predicted like this one took between `low_seconds` and `high_seconds`, a share
    `level_fraction` of them."""
    high_seconds: float
    level_fraction: float
    basis: str
    """Which runs the error bar rests on, in words."""
    peak_bytes: float
    """On the fullest device."""
    usable_bytes: float
    """What a plan may take of a device."""
    mfu_fraction: float
    is_measured: bool
    """Whether kernels of this accelerator were timed; else its speed is that of others, scaled by datasheets."""
    rated_watts: float
    """Of a device; 0 where its record does not say."""
    state_bytes: float
    """Of one checkpoint."""
    num_plans: int
    """Plans that were looked at."""

    @property
    def step_seconds(self) -> float:
        """The predicted step."""
        return float(self.breakdown.step_seconds)


@dataclass(frozen=True, slots=True)
class NoPace:
    """No plan of the job can run on the cluster."""

    reason: str
    """Bytes over, or the rule that stands in the way, in one sentence."""
    bytes_over: float | None
    """Of the plan that comes nearest; None where memory is not what stands in the way."""
    num_plans: int


def pace(on: Scenario) -> Pace | NoPace:
    """The best plan of `on.job` on `on.cluster`, by a full search in closed form."""
    found = search(on.job, on.cluster, on.stack, top=1)
    if not found.candidates:
        return _refusal(found)
    best = found.candidates[0].estimate
    assert isinstance(best.plan, Plan)
    bar = interval(best.step_seconds, best.plan, on.job, on.cluster, on.stack)
    return Pace(
        plan=best.plan,
        breakdown=best.breakdown,
        low_seconds=float(bar.low_seconds),
        high_seconds=float(bar.high_seconds),
        level_fraction=bar.level_fraction,
        basis=bar.basis,
        peak_bytes=float(best.memory.peak_bytes),
        usable_bytes=float(usable_bytes(on.cluster, on.stack)),
        mfu_fraction=float(mfu(best.step_seconds, on.job, on.cluster)),
        is_measured=on.cluster.accelerator.name in on.cluster.kernels.accelerators,
        rated_watts=on.cluster.accelerator.power_watts or 0.0,
        state_bytes=checkpoint_bytes(on.job, on.stack),
        num_plans=found.num_plans,
    )


def _refusal(found: Answer) -> NoPace:
    if found.nearest_misses:
        over = found.nearest_misses[0].bytes_over
        return NoPace(f"does not fit: {over / GIB:,.1f} GiB a device over at the least", over, found.num_plans)
    if found.num_plans == 0:
        return NoPace("no split of the devices suits the model", None, 0)
    rule = max(found.rejected, key=lambda name: found.rejected[name])
    return NoPace(f"no plan is legal: most break the rule that {rule}", None, found.num_plans)
