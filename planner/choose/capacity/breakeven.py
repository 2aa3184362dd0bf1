"""Buying against renting the same accelerator: after how many hours of use the purchase has paid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.choose.capacity.charge import tariff
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option
from planner.cost.money import break_even_hours
from profiles.units import HOUR


@dataclass(frozen=True, slots=True)
class BreakEven:
    """One purchase against the cheapest rent of the same accelerator that is not taken back."""

    bought: Option
    rented: Option
    use_seconds: float
    """Of use of each device, from which buying is cheaper; infinite when it never is."""
    life_seconds: float
    """Of use that a device has in it: its life times the utilisation that owners reach."""

    @property
    def life_fraction(self) -> float:
        """Share of a device's life that must be used; over 1, renting is cheaper for good."""
        return self.use_seconds / self.life_seconds


def break_evens(options: Sequence[Option], demand: Demand) -> list[BreakEven]:
    """One for each offer to buy whose accelerator is also for rent, the soonest to pay first.

    Both are taken at the size at which the purchase is cheapest; the accelerators are alike, their networks may not be.
    """
    bought = _cheapest_by([one for one in options if one.offer.terms == "purchase"], lambda one: one.offer.name)
    kept = [one for one in options if one.offer.terms in ("on-demand", "reserved")]
    rented = _cheapest_by(kept, lambda one: one.offer.accelerator)
    pairs = [(one, rented[one.offer.accelerator]) for one in bought.values() if one.offer.accelerator in rented]
    return sorted((_against(one, other, demand) for one, other in pairs), key=lambda one: one.use_seconds)


def _cheapest_by(options: Sequence[Option], name_of: Callable[[Option], str]) -> dict[str, Option]:
    """Of each name the option with the lowest rent, then the lowest cost of the run."""
    ordered = sorted(options, key=lambda one: (one.offer.dollars_per_device_second or 0.0, one.dollars), reverse=True)
    return {name_of(one): one for one in ordered}


def _against(bought: Option, rented: Option, demand: Demand) -> BreakEven:
    charged, figures = tariff(bought.offer, [bought.pace], demand), demand.ownership
    rent = (rented.offer.dollars_per_device_second or 0.0) * demand.price_factor
    hours = break_even_hours(  # an owner pays for spares too, so that rent is spread over more devices
        rent / charged.paid_fraction, charged.rates, charged.watts_per_device[0], charged.place, figures
    )
    life_seconds = figures.lifetime_seconds * figures.utilisation_fraction
    return BreakEven(bought, rented, float(np.ravel(hours)[0]) * HOUR, life_seconds)
