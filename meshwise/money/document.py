"""What a job costs as JSON: bills in dollars by part, joules and kilograms, and whose figures they rest on."""

from typing import Any

from meshwise.jobfile import Question
from meshwise.money.terms import Terms, bills
from planner.breakdown import Breakdown
from planner.cost.money import Bill


def money(question: Question, breakdown: Breakdown, found: Terms | None, useful_fraction: float = 1.0) -> Any:
    """The `money` of a document; None where nothing was asked."""
    if found is None:
        return None
    made = [_bill(one, knows_power=found.rated_watts is not None)
            for one in bills(found, breakdown, question, useful_fraction)]  # fmt: skip
    offer, place = found.offer, found.site
    return {
        "name": found.name,
        "terms": None if offer is None else offer.terms,
        "num_devices": found.num_devices,
        "step": made[0],
        "per_million": made[1],
        "tokens": found.tokens,
        "useful_fraction": useful_fraction,
        "whole": made[2] if found.tokens is not None else None,
        "interruptions_per_second": 0.0 if offer is None else offer.interruptions_per_device_second * found.num_devices,
        "site": {
            "pue": place.pue,
            "dollars_per_joule": place.dollars_per_joule,
            "carbon_kilograms_per_joule": place.carbon_kilograms_per_joule,
            "assumed": list(place.assumed),
        },
        "sources": [*([] if offer is None else [f"{offer.source} ({offer.as_of})"]), *place.sources],
        "unverified": [] if offer is None else list(offer.unverified),
    }


def _bill(one: Bill, *, knows_power: bool) -> dict[str, Any]:
    return {
        "dollars": {part: float(value) for part, value in one.parts().items()},
        "total_dollars": float(one.total_dollars),
        "energy_joules": float(one.energy_joules) if knows_power else None,
        "carbon_kilograms": float(one.carbon_kilograms) if knows_power else None,
        "embodied_kilograms": float(one.embodied_kilograms),
    }
