"""A trace set beside the planner's figures: every difference is named, or it is a fault."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from planner.plan import Plan
from planner.work.schedules import SCHEDULES
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.reasons import Reason, unexplained
from validate.trace.beside import beside, waiting_key
from validate.trace.figures import Traced
from validate.trace.planned import FLOPS, MEMORY, MESSAGES, Figures, Key, planned
from validate.trace.ways import ways

ROUNDING = 1e-12
"""Relative difference that sums of floating-point numbers may show."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one rank, twice."""

    key: Key
    estimated: float
    traced: float
    reasons: tuple[Reason, ...]

    @property
    def unexplained(self) -> float:
        """What of the difference no reason names; 0 but for rounding."""
        return unexplained(self.traced, self.estimated, self.reasons, ROUNDING)


def rows(traced: Traced, job: TrainingJob, plan: Plan, stack: SoftwareStack) -> tuple[Row, ...]:
    """Every figure of a traced rank beside the planner's, with what explains the difference."""
    estimated = now = planned(plan, job, stack, traced.stage)
    reasons: dict[Key, list[Reason]] = {}
    for way in ways(job, plan, stack):
        stack = stack.model_copy(update={way.field: way.value})
        before, now = now, planned(plan, job, stack, traced.stage)
        for key in before | now:
            if change := now.get(key, 0.0) - before.get(key, 0.0):
                reasons.setdefault(key, []).append(Reason(change, f"{way.words} ({way.field})"))
    for key, reason in beside(traced, job, plan, stack, now):
        reasons.setdefault(key, []).append(reason)
    found = figures(traced)
    compared = [key for key in estimated | now | found if key not in _uncompared(plan)]
    keys = sorted(compared, key=lambda key: ((FLOPS, MESSAGES, MEMORY).index(key[0]), key[1:]))
    return tuple(Row(key, estimated.get(key, 0.0), found.get(key, 0.0), _merged(reasons.get(key, []))) for key in keys)


def _uncompared(plan: Plan) -> tuple[Key, ...]:
    """What waits for a backward pass that comes in two parts: torch lets go of it piece by piece."""
    return ((MEMORY, "activations", ""), (MEMORY, "logits", "")) if SCHEDULES[plan.schedule].splits_backward else ()


def _merged(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """One reason for each wording, those of nothing left out."""
    amounts: dict[str, float] = {}
    for reason in reasons:
        amounts[reason.words] = amounts.get(reason.words, 0.0) + reason.amount
    return tuple(Reason(amount, words) for words, amount in amounts.items() if amount)


def figures(traced: Traced) -> Figures:
    """The figures of a trace under the planner's names."""
    found: Counter[Key] = Counter()
    for (operation, phase), flops in traced.counts.flops.items():
        found[FLOPS, operation, phase] += flops  # type: ignore[assignment]
    for (axis, collective, _, _), sent in traced.counts.sent.items():
        found[MESSAGES, axis, collective] += sent.num_bytes  # type: ignore[assignment]
    for (place, made_by), size in traced.waiting.items():
        found[waiting_key(place, made_by)] += size  # type: ignore[assignment]
    found[MEMORY, "parameters", ""] = traced.parameters_bytes  # type: ignore[assignment]
    found[MEMORY, "gradients", ""] = traced.gradients_bytes  # type: ignore[assignment]
    found[MEMORY, "optimizer", ""] = traced.optimizer_bytes  # type: ignore[assignment]
    return {key: value for key, value in found.items() if value}


def faults(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows whose difference is not fully explained."""
    return tuple(row for row in rows if row.unexplained)
