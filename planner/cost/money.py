"""Dollars, joules and CO2 of a job: a bill of named parts that sum to its total. Everything broadcasts over arrays."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from planner.breakdown import Breakdown
from profiles.costs import OwnershipFigures, PowerShares
from profiles.offer import Offer
from profiles.site import Site
from profiles.units import HOUR

Dollars = Any
DollarsPerSecond = Any
Watts = Any

_COMPUTING = ("forward", "backward", "recompute", "optimizer")
_WAITING = ("host", "idle")


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device costs in each second of use, by part. A tenant pays rent; an owner all the others."""

    rent_dollars_per_device_second: DollarsPerSecond = 0.0
    hardware_dollars_per_device_second: DollarsPerSecond = 0.0
    network_dollars_per_device_second: DollarsPerSecond = 0.0
    storage_dollars_per_device_second: DollarsPerSecond = 0.0
    colocation_dollars_per_device_second: DollarsPerSecond = 0.0
    staff_dollars_per_device_second: DollarsPerSecond = 0.0
    pays_energy: Any = False
    """Whether electricity comes on top; rent contains it."""
    embodied_kilograms_per_device_second: Any = 0.0
    """CO2 of making the device, over its life."""


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars by part; they sum to `total_dollars`. Energy and CO2 are reported whoever pays for them."""

    rent_dollars: Dollars
    hardware_dollars: Dollars
    network_dollars: Dollars
    storage_dollars: Dollars
    energy_dollars: Dollars
    colocation_dollars: Dollars
    staff_dollars: Dollars
    energy_joules: Any
    """Of the whole site."""
    carbon_kilograms: Any
    """Of that energy."""
    embodied_kilograms: Any
    """The use's share of what making the devices emitted."""

    def parts(self) -> dict[str, Dollars]:
        """Name (without its unit) -> dollars, in the order of the fields."""
        names = (field.name for field in fields(self) if field.name.endswith("_dollars"))
        return {name.removesuffix("_dollars"): getattr(self, name) for name in names}

    @property
    def total_dollars(self) -> Dollars:
        """The sum of the parts."""
        return sum(self.parts().values())


def mean_watts(breakdown: Breakdown, rated_watts: Watts, shares: PowerShares) -> Watts:
    """Mean power over a step of a device and its share of the host, before the site's own.

    P (h + (b t_compute + c t_exposed + i t_waiting) / t_step) with rated power P: exposed communication and waiting
    draw less than computing. [The form of Newkirk 2025, arXiv:2506.14551, with a rate by phase]
    """
    parts = breakdown.parts()
    computing = sum(parts[name] for name in _COMPUTING)
    waiting = sum(parts[name] for name in _WAITING)
    exposed = breakdown.step_seconds - computing - waiting
    busy, talking, idle = shares.busy_fraction, shares.communication_fraction, shares.idle_fraction
    mean = (busy * computing + talking * exposed + idle * waiting) / breakdown.step_seconds
    return rated_watts * (mean + shares.host_fraction)


def installed_watts(rated_watts: Watts, shares: PowerShares) -> Watts:
    """Power to provide for a device and its share of the host."""
    return rated_watts * (1.0 + shares.host_fraction)


def rented(dollars_per_device_second: DollarsPerSecond) -> Rates:
    """The rates of a tenant, whose rent holds host, network and electricity."""
    return Rates(rent_dollars_per_device_second=dollars_per_device_second)


def owned(
    purchase_dollars_per_device: Dollars, installed_watts: Watts, figures: OwnershipFigures, includes: str = "server"
) -> Rates:
    """The rates of an owner whose price buys what `includes` says: the device, its server or its cluster.

    Straight-line depreciation, (1 - residual) x price / (life x utilisation), of the server, its network and storage;
    colocation by `installed_watts` and staff go on while devices stand idle, so they are divided by utilisation too.
    """
    server = purchase_dollars_per_device * (1.0 + (figures.host_fraction if includes == "device" else 0.0))
    network = server * (0.0 if includes == "cluster" else figures.network_fraction)
    written_off = (1.0 - figures.residual_fraction) / figures.lifetime_seconds / figures.utilisation_fraction
    colocation = figures.colocation_dollars_per_watt_second * installed_watts
    return Rates(
        hardware_dollars_per_device_second=server * written_off,
        network_dollars_per_device_second=network * written_off,
        storage_dollars_per_device_second=server * figures.storage_fraction * written_off,
        colocation_dollars_per_device_second=colocation / figures.utilisation_fraction,
        staff_dollars_per_device_second=figures.staff_dollars_per_device_second / figures.utilisation_fraction,
        pays_energy=True,
        embodied_kilograms_per_device_second=(
            figures.embodied_kilograms_per_device / figures.lifetime_seconds / figures.utilisation_fraction
        ),
    )


def rates_of(offer: Offer, installed_watts: Watts, figures: OwnershipFigures) -> Rates:
    """The rates of an offer's tenant, or of its buyer."""
    if offer.purchase_dollars_per_device is None or offer.includes is None:
        return rented(offer.dollars_per_device_second)
    return owned(offer.purchase_dollars_per_device, installed_watts, figures, offer.includes)


def bill(device_seconds: Any, watts_per_device: Watts, rates: Rates, site: Site) -> Bill:
    """What `device_seconds` of use at a mean `watts_per_device` come to: rates x time, and energy x its price."""
    joules = device_seconds * watts_per_device * site.pue
    return Bill(
        rent_dollars=device_seconds * rates.rent_dollars_per_device_second,
        hardware_dollars=device_seconds * rates.hardware_dollars_per_device_second,
        network_dollars=device_seconds * rates.network_dollars_per_device_second,
        storage_dollars=device_seconds * rates.storage_dollars_per_device_second,
        energy_dollars=joules * site.dollars_per_joule * rates.pays_energy,
        colocation_dollars=device_seconds * rates.colocation_dollars_per_device_second,
        staff_dollars=device_seconds * rates.staff_dollars_per_device_second,
        energy_joules=joules,
        carbon_kilograms=joules * site.carbon_kilograms_per_joule,
        embodied_kilograms=device_seconds * rates.embodied_kilograms_per_device_second,
    )


def break_even_hours(
    rent_dollars_per_device_second: DollarsPerSecond, owner: Rates, watts_per_device: Watts, site: Site,
    figures: OwnershipFigures,
) -> Any:  # fmt: skip
    """Hours of use of a device within its life from which buying is cheaper than renting; inf when it never is.

    An owner pays all but electricity whether devices are used or not: F over a life. With rent r and electricity e by
    the second of use, F + e t = r t gives t = F / (r - e). More than the life's hours: buying does not pay in it.
    """
    running = watts_per_device * site.pue * site.dollars_per_joule
    fixed = bill(figures.lifetime_seconds * figures.utilisation_fraction, 0.0, owner, site).total_dollars
    saved = rent_dollars_per_device_second - running
    return np.where(saved > 0.0, fixed / np.where(saved > 0.0, saved, 1.0), np.inf) / HOUR
