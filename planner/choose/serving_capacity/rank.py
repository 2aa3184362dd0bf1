"""Every offer with its best deployment and every way to pay for it, the cheapest first; and why others are out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from planner.choose.serving_capacity.demand import ServedDay
from planner.choose.serving_capacity.deployment import Deployment, promising
from planner.choose.serving_capacity.option import (
    AUTOSCALED,
    BASE_AND_PEAK,
    PART_SPOT,
    STATIC,
    Fleet,
    FleetOption,
    Prices,
)
from planner.choose.serving_replicas import Replica
from profiles.offer import Offer

Kinds = tuple[Sequence[Replica], Sequence[Replica], Sequence[Replica]]
COMMITTED = ("reserved", "purchase")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one cluster can do, whatever it costs."""

    kinds: Kinds
    """Replicas that do all work, that only run prompts, and that only decode."""
    error_factor: float
    """One standard deviation of their rates, over what was said, which is log-normal."""
    refused: str = ""
    """Why there are none."""

    def of(self, offer: Offer) -> Kinds:
        """Those on no more devices than work as one cluster in `offer`."""
        most = offer.max_devices or math.inf
        whole, prompts, decodes = ([one for one in kind if one.num_devices <= most] for kind in self.kinds)
        return whole, prompts, decodes


def offered(
    offers: Sequence[Offer], hardware: Mapping[str, Hardware], day: ServedDay, prices: Prices,
    revise: Callable[[Deployment], Deployment] = lambda one: one,
) -> tuple[tuple[FleetOption, ...], dict[str, str]]:  # fmt: skip
    """(options, the cheapest first; name of an offer -> why it is out). `hardware` is by the cluster of an offer;
    `revise` is what a simulation knows better of a deployment."""
    found: list[FleetOption] = []
    refused: dict[str, str] = {}
    ordered = sorted(offers, key=_market)
    for _, group in groupby(ordered, key=_market):
        these = list(group)
        for offer in these:
            made = list(_options(offer, these, hardware[offer.cluster], day, prices, revise))
            if not made and offer.terms != "spot":
                refused[offer.name] = _why(offer, hardware[offer.cluster])
            found += made
    return tuple(sorted(found, key=lambda one: (one.dollars, one.offer.name, one.how))), refused


def _why(offer: Offer, on: Hardware) -> str:
    if on.refused:
        return on.refused
    if not any(on.of(offer)):
        return f"a replica needs more than the {offer.max_devices} devices that work together there"
    return "an idle replica misses the targets"


def _market(offer: Offer) -> tuple[str, str, str]:
    """Offers that can be mixed: of one provider, in one place, on one kind of cluster."""
    return (offer.provider, offer.region, offer.cluster)


def _options(
    offer: Offer, group: Sequence[Offer], on: Hardware, day: ServedDay, prices: Prices,
    revise: Callable[[Deployment], Deployment],
) -> Iterable[FleetOption]:  # fmt: skip
    """Every way to pay that begins with `offer`; spot instances only stand beside others, as far as the job allows."""
    headroom = day.headroom(on.error_factor)
    fleets = {
        scales: [
            Fleet(revise(one), day, on.error_factor, prices)
            for one in promising(on.of(offer), day, headroom, offer.devices_per_instance, scales=scales)
        ]
        for scales in (False, True)
    }

    def best(how: str, other: Offer | None = None) -> Iterable[FleetOption]:
        made = [fleet.option(how, offer, other) for fleet in fleets[how != STATIC]]
        return [min(made, key=lambda one: one.dollars)] if made else []

    if offer.terms == "spot":
        if day.spot_fraction == 1.0:
            yield from best(PART_SPOT, offer)
        return
    yield from best(STATIC)
    if offer.terms == "on-demand":
        yield from best(AUTOSCALED)
    for other in group:
        if offer.terms == "on-demand" and other.terms == "spot" and other.instance == offer.instance:
            if 0.0 < day.spot_fraction < 1.0:
                yield from best(PART_SPOT, other)
        elif offer.terms in COMMITTED and other.terms == "on-demand":
            yield from best(BASE_AND_PEAK, other)
