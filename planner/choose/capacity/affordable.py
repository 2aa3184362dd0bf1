"""The largest job that a budget and a deadline allow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from planner.choose.capacity.charge import tariff
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option


@dataclass(frozen=True, slots=True)
class Largest:
    """An option, and the tokens it can be trusted to train on."""

    option: Option
    tokens: float


def largest(options: Sequence[Option], demand: Demand) -> Largest | None:
    """The most tokens that any option processes in time and within the budget, at the risk that is allowed.

    Time and dollars are in proportion to tokens. None where there is neither a deadline nor a budget, or no option.
    """
    found = [Largest(one, affordable_tokens(one, demand)) for one in options if one.can_begin(demand)]
    best = max(found, key=lambda one: one.tokens, default=None)
    return best if best is not None and np.isfinite(best.tokens) else None


def affordable_tokens(one: Option, demand: Demand) -> float:
    """Tokens of a run that ends before the deadline and the end of the money but for the allowed risk."""
    charged = tariff(one.offer, [one.pace], demand)
    paid = float(np.ravel(charged.affordable_seconds(float(one.num_devices), demand.budget_dollars))[0])
    slow = float(one.run.quantile_seconds(ndtri(1.0 - demand.max_risk_fraction)))
    return demand.tokens * min(demand.deadline_seconds, paid) / slow
