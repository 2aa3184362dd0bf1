"""What would be if a figure were another: does the choice change, and to what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.choose.capacity.answer import Setup, cheapest
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option
from planner.choose.capacity.pace import NoPace, Pace
from profiles.costs import OwnershipFigures
from profiles.offer import Offer

Vary = Callable[[Demand, float], Demand]

VARIED: Mapping[str, tuple[tuple[float, ...], Vary]] = {
    "price": ((0.8, 1.25), lambda demand, factor: replace(demand, price_factor=factor)),
    "speed": ((0.8, 1.25), lambda demand, factor: replace(demand, speed_factor=factor)),
    "use of owned devices": ((0.5, 0.75), lambda demand, factor: replace(demand, ownership=_used(demand, factor))),
    "failure rate": ((0.5, 2.0, 5.0), lambda demand, factor: replace(demand, failure_factor=factor)),
    "time": ((0.75, 1.5), lambda demand, factor: replace(demand, deadline_seconds=demand.deadline_seconds * factor)),
    "budget": ((0.75, 1.5), lambda demand, factor: replace(demand, budget_dollars=demand.budget_dollars * factor)),
}
"""What is varied -> by which factors, and how."""
OF_THE_CHOICE = ("price", "speed")
"""What is also varied for the chosen accelerator alone, all others as they are."""


def _used(demand: Demand, factor: float) -> OwnershipFigures:
    """Figures of owners whose devices are used so much less of their life."""
    used = demand.ownership.utilisation_fraction * factor
    return demand.ownership.model_copy(update={"utilisation_fraction": used})


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The choice if one figure were `change_factor` times as large."""

    name: str
    """What is varied."""
    change_factor: float
    accelerator: str
    """Whose figure it is; "" where it is everyone's."""
    best: Option | None
    """The cheapest option that would do then."""
    changes_choice: bool


def what_ifs(
    best: Option,
    offers: Sequence[Offer],
    counts: Mapping[str, Sequence[int]],
    paces: Mapping[Setup, Pace | NoPace],
    demand: Demand,
) -> list[WhatIf]:
    """The choice under each change; limits that nobody set are not varied."""
    found = []
    limits = {"time": demand.deadline_seconds, "budget": demand.budget_dollars}
    for name, (factors, vary) in VARIED.items():
        if not np.isfinite(limits.get(name, 0.0)):
            continue
        for whose in ("", best.offer.accelerator) if name in OF_THE_CHOICE else ("",):
            for factor in factors:
                then = cheapest(offers, counts, paces, _demand_of(whose, demand, vary(demand, factor)))
                moved = then is None or then.key != best.key
                found.append(WhatIf(name, factor, whose, then, moved))
    return found


def _demand_of(accelerator: str, usual: Demand, changed: Demand) -> Callable[[Offer], Demand]:
    """The demand of each offer where only those of one accelerator ("": all) have changed."""
    return lambda offer: changed if accelerator in ("", offer.accelerator) else usual
