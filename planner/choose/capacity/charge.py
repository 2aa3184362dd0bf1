"""What a run on an offer is charged: its bill, and the longest run that a budget pays for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from planner.choose.capacity.demand import Demand
from planner.choose.capacity.pace import Pace
from planner.cost.money import Bill, Rates, bill, installed_watts, mean_watts, rates_of
from profiles.offer import Offer
from profiles.site import Site, site


@dataclass(frozen=True, slots=True)
class Tariff:
    """How an offer charges its devices, by number of devices; arrays have one value each."""

    rates: Rates
    place: Site
    watts_per_device: Any
    """Mean, of those that are paid for, with their share of the host; 0 where the rated power is not known."""
    paid_fraction: float
    """Devices paid for over devices that work: spares are held of what is bought or reserved."""
    committed_seconds: float
    """Paid for at the least."""
    outlay_dollars_per_device: float
    """To be spent before the run begins, with servers, network and storage; 0 of what is rented."""

    def bill(self, num_devices: Any, seconds: Any) -> Bill:
        """Of `num_devices` working devices for so long."""
        paid_seconds = np.maximum(seconds, self.committed_seconds)
        return bill(num_devices * self.paid_fraction * paid_seconds, self.watts_per_device, self.rates, self.place)

    def affordable_seconds(self, num_devices: Any, budget_dollars: float) -> Any:
        """The longest run within the budget, infinite without one: bills grow in proportion to time."""
        some_seconds = self.committed_seconds + 1.0
        longest = budget_dollars / self.bill(num_devices, some_seconds).total_dollars * some_seconds
        return np.where(longest >= self.committed_seconds, longest, 0.0)


def tariff(offer: Offer, paces: Sequence[Pace], demand: Demand) -> Tariff:
    """How `offer` charges for runs at the `paces`, one a number of devices.

    Spare devices wait: they draw the power of idle ones. Of what is bought, a run is charged the share of the devices'
    life that it uses up.
    """
    shares, figures = demand.power, demand.ownership
    rated = np.array([one.rated_watts for one in paces])
    working = np.array([mean_watts(one.breakdown, one.rated_watts, shares) for one in paces])
    spares = 0.0 if offer.terms in ("on-demand", "spot") else demand.spare_fraction
    waiting = rated * (shares.idle_fraction + shares.host_fraction)
    rent, price = offer.dollars_per_device_second, offer.purchase_dollars_per_device
    priced = offer.model_copy(update={
        "dollars_per_device_second": rent and rent * demand.price_factor,
        "purchase_dollars_per_device": price and price * demand.price_factor,
    })  # fmt: skip
    installed = installed_watts(rated, shares)
    undiminished = figures.model_copy(update={"residual_fraction": 0.0})  # a life then writes off the whole price
    bought = rates_of(priced, installed, undiminished)
    life_seconds = figures.lifetime_seconds * figures.utilisation_fraction
    outlay = life_seconds * (
        bought.hardware_dollars_per_device_second
        + bought.network_dollars_per_device_second
        + bought.storage_dollars_per_device_second
    )
    return Tariff(
        rates=rates_of(priced, installed, figures),
        place=_place(offer.provider, offer.region, offer.country, tuple(sorted(demand.place.items()))),
        watts_per_device=(working + spares * waiting) / (1.0 + spares),
        paid_fraction=1.0 + spares,
        committed_seconds=offer.commitment_seconds or 0.0,
        outlay_dollars_per_device=outlay * (1.0 + spares),
    )


@cache
def _place(provider: str, region: str, country: str, known: tuple[tuple[str, Any], ...]) -> Site:
    """The place of an offer, looked up once."""
    return site(**{"provider": provider, "region": region, "country": country, **dict(known)})
