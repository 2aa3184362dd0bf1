"""What a user asks of a plan beyond fitting: conditions on its fields and its price, and what to rank by."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from planner.breakdown import Breakdown
from planner.cost.memory import usable_bytes
from planner.cost.metrics import mfu, tokens_per_second
from planner.plan import PLAN_FIELDS, PlanGrid
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.units import GIB, GIGA, MEGA, MIB, MILLI, MINUTE, TERA
from profiles.workload import TrainingJob

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

Objective = Literal["time", "memory", "dollars"]
"""What plans are ranked by, smallest first: seconds of a step, bytes on the fullest rank, or dollars of a step."""


def objective_named(text: str) -> Objective:
    """The objective called `text`; raises ValueError listing them."""
    for name in get_args(Objective):
        if name == text:
            return cast(Objective, name)
    raise ValueError(f"objective: {text!r} is not one of {', '.join(get_args(Objective))}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What plans are for: figures of a plan are measured against it."""

    job: TrainingJob
    cluster: Cluster
    stack: SoftwareStack
    dollars: Callable[[Breakdown], Any] | None = None
    """Dollars of a step, or of each of an array of steps; None: no price is known."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a priced plan: which price it needs, and how it follows from it."""

    needs: Literal["plan", "memory", "time"]
    of: Callable[[PlanGrid, Any, Scenario], Any]
    """(plans, peak bytes or step seconds, scenario) -> value of every plan."""
    units: Mapping[str, float]


_BYTES = {"": 1.0, "b": 1.0, "mb": MEGA, "gb": GIGA, "tb": TERA, "mib": MIB, "gib": GIB}
_SECONDS = {"": 1.0, "s": 1.0, "ms": MILLI, "min": MINUTE}
_SHARE = {"": 1.0, "%": 0.01}
_COUNT = {"": 1.0}

FIGURES: Mapping[str, Figure] = {
    "memory": Figure("memory", lambda plans, peak, on: peak, _BYTES),
    "headroom": Figure("memory", lambda plans, peak, on: usable_bytes(on.cluster, on.stack) - peak, _BYTES),
    "step": Figure("time", lambda plans, step, on: step, _SECONDS),
    "mfu": Figure("time", lambda plans, step, on: mfu(step, on.job, on.cluster), _SHARE),
    "tokens_per_second": Figure("time", lambda plans, step, on: tokens_per_second(step, on.job), _COUNT),
    "microbatches": Figure("plan", lambda plans, _, on: plans.num_microbatches(on.job.global_batch), _COUNT),
}
"""Figures that a requirement may name beside the fields of a plan."""

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq, "==": operator.eq,
}  # fmt: skip
_NAMED_FIELDS = frozenset({"schedule", "layout", "recompute", "recompute_modules", "offload", "order", "placement"})
"""Plan fields whose values are names; they are held by `fixed`."""
_PATTERN = re.compile(r"\s*([a-z_]+)\s*(<=|>=|==|<|>|=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition, e.g. `memory<=70GiB`."""

    text: str
    name: str
    operator: str
    value: float
    """In SI units."""

    @property
    def needs(self) -> str:
        """The price it can be checked with: "plan", "memory" or "time"."""
        return FIGURES[self.name].needs if self.name in FIGURES else "plan"

    def holds(self, plans: PlanGrid, price: Any, on: Scenario) -> Mask:
        """Which plans meet it, given the price that it needs."""
        value = FIGURES[self.name].of(plans, price, on) if self.name in FIGURES else getattr(plans, self.name)
        return np.asarray(_OPERATORS[self.operator](value, self.value))


def parse_requirement(text: str) -> Requirement:
    """`NAME OP VALUE[UNIT]` as a requirement: memory<=70GiB, step<10s, mfu>=40%, tp<=8.

    Raises ValueError naming the text, and what is right.
    """
    found = _PATTERN.fullmatch(text)
    names = [name for name in (*FIGURES, *PLAN_FIELDS) if name not in _NAMED_FIELDS]
    if not found:
        raise ValueError(f"require: {text!r} is not NAME<=VALUE (or >=, <, >, =), e.g. memory<=70GiB or tp<=8")
    name, sign, number, unit = found[1].lower(), found[2], found[3], found[4].lower()
    if name in _NAMED_FIELDS:
        raise ValueError(f"require: {name} has names for values; hold it with --fix {name}={number}")
    if name not in names:
        raise ValueError(f"require: {name!r} is not a figure of a plan; choose from {', '.join(names)}")
    units = FIGURES[name].units if name in FIGURES else _COUNT
    if unit not in units:
        known = ", ".join(one for one in units if one) or "none"
        raise ValueError(f"require: {text!r} has the unit {unit!r}; {name} takes {known}")
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise ValueError(f"require: {number!r} in {text!r} is not a number") from None
    return Requirement(text.strip(), name, sign, value)


def meeting(
    requirements: Sequence[Requirement], needs: str, plans: PlanGrid, price: Any, on: Scenario
) -> tuple[Mask, dict[str, int]]:
    """(mask of the plans that meet those requirements that need `needs`, plans failing each of them first)."""
    mask = np.ones(len(plans), dtype=bool)
    failed: dict[str, int] = {}
    for one in requirements:
        if one.needs == needs:
            holds = one.holds(plans, price, on)
            failed[one.text] = int(np.count_nonzero(mask & ~holds))
            mask &= holds
    return mask, failed
