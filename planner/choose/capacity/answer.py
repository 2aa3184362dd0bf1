"""The answer to a capacity question: every option ranked, the best of several kinds, and why the others are out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option, options_of
from planner.choose.capacity.pace import NoPace, Pace
from planner.choose.pareto import front_mask
from profiles.offer import Offer

NUM_MISSES = 3
"""Options that are shown as the nearest where none is good enough."""
RISK_DIGITS = 3
"""Risks that are alike to so many digits are equal: a chance of one in a thousand is none to a buyer."""

Setup = tuple[str, int]
"""A cluster by name, and a number of devices."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An offer that cannot be used at a number of devices, whatever it costs."""

    offer: Offer
    num_devices: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """Options of one demand: those that are good enough by dollars, then the others."""

    demand: Demand
    options: tuple[Option, ...]
    front: frozenset[tuple[str, int]]
    """Keys of the options that no other beats in dollars, days and risk together."""
    refused: tuple[Refused, ...]

    @property
    def good(self) -> tuple[Option, ...]:
        """Options that are good enough, the cheapest first."""
        return tuple(one for one in self.options if not one.shortfall)

    @property
    def best(self) -> Option | None:
        """The cheapest that is good enough."""
        return self.good[0] if self.good else None

    @property
    def smallest(self) -> tuple[Option, ...]:
        """Of each accelerator the fewest devices that are good enough, at the lowest price; fewest first."""
        found: dict[str, Option] = {}
        for one in sorted(self.good, key=lambda one: (one.num_devices, one.dollars)):
            found.setdefault(one.offer.accelerator, one)
        return tuple(found.values())

    @property
    def nearest(self) -> tuple[Option, ...]:
        """Where nothing is good enough: those that miss deadline and budget by the smallest factors."""
        return () if self.good else tuple(sorted(self.options, key=lambda one: _excess(one, self.demand))[:NUM_MISSES])


def rank(
    offers: Sequence[Offer],
    counts: Mapping[str, Sequence[int]],
    paces: Mapping[Setup, Pace | NoPace],
    demand: Demand,
) -> Ranking:
    """Price every offer at every number of devices, `counts` by offer; `paces` by cluster and number of devices."""
    options: list[Option] = []
    refused: list[Refused] = []
    for offer in offers:
        options += options_of(offer, _usable(offer, counts, paces), demand)
        looked_at = [(number, paces[offer.cluster, number]) for number in counts[offer.name]]
        refused += [Refused(offer, number, found.reason) for number, found in looked_at if isinstance(found, NoPace)]
    options.sort(key=_order)
    costs = np.array([(one.dollars, one.days, round(one.risk_fraction, RISK_DIGITS)) for one in options]).reshape(-1, 3)
    front = frozenset(one.key for one, on_front in zip(options, front_mask(costs), strict=True) if on_front)
    return Ranking(demand, tuple(options), front, tuple(refused))


def cheapest(
    offers: Sequence[Offer],
    counts: Mapping[str, Sequence[int]],
    paces: Mapping[Setup, Pace | NoPace],
    demand_of: Callable[[Offer], Demand],
) -> Option | None:
    """The best option alone, where each offer may have a demand of its own.

    Of offers that differ in their rent alone only the lowest is looked at, which is never worse.
    """
    lowest: dict[tuple[object, ...], Offer] = {}
    for offer in sorted(offers, key=lambda one: one.dollars_per_device_second or 0.0, reverse=True):
        rented = offer.terms != "purchase"
        alike = (offer.cluster, offer.terms, offer.interruptions_per_device_second, offer.commitment_seconds,
                 tuple(counts[offer.name]))  # fmt: skip
        lowest[alike if rented else (offer.name,)] = offer
    good = []
    for offer in lowest.values():
        found = options_of(offer, _usable(offer, counts, paces), demand_of(offer))
        good += [one for one in found if not one.shortfall]
    return min(good, key=_order, default=None)


def _usable(
    offer: Offer, counts: Mapping[str, Sequence[int]], paces: Mapping[Setup, Pace | NoPace]
) -> list[tuple[int, Pace]]:
    """The numbers of devices of an offer on which the job runs, and how fast."""
    looked_at = ((number, paces[offer.cluster, number]) for number in counts[offer.name])
    return [(number, found) for number, found in looked_at if isinstance(found, Pace)]


def _order(one: Option) -> tuple[bool, float, float, tuple[str, int]]:
    """What options are ranked by: whether they will do, dollars, days; of equals the smaller name."""
    return bool(one.shortfall), one.dollars, one.days, one.key


def _excess(one: Option, demand: Demand) -> float:
    """The factor by which an option misses what it misses most, at the end of its error bar."""
    return max(one.high_seconds / demand.deadline_seconds, one.high_dollars / demand.budget_dollars)
