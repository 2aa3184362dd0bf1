"""What a job costs: from an offer or a price, and where the devices stand, to the bills of its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwise import jobfile
from meshwise.capacity.quantities import amount
from meshwise.jobfile import Question
from meshwise.money.table import MoneyTable
from planner.breakdown import Breakdown
from planner.cost.money import Bill, Rates, bill, installed_watts, mean_watts, rates_of, rented
from profiles import catalog
from profiles.costs import OwnershipFigures, PowerShares, ownership, power_shares
from profiles.files import read_table, validated
from profiles.model import LayerList
from profiles.offer import Offer
from profiles.prices import parse_offers
from profiles.site import Site, is_known, site
from profiles.units import HOUR, KWH, MEGA, MILLI, from_vendor_units

_OWNED = (
    "host_fraction", "network_fraction", "storage_fraction", "lifetime_years", "residual_fraction",
    "utilisation_fraction", "staff_dollars_per_device_hour", "colocation_dollars_per_kw_month",
)  # fmt: skip
"""Fields that replace those of `profiles.costs.OwnershipFigures`."""


@dataclass(frozen=True, slots=True)
class MoneyAsked:
    """What is asked about money: the table, and the offers that are the user's own."""

    table: MoneyTable
    own: tuple[Offer, ...]

    def offer(self) -> Offer | None:
        """The offer that is named; raises UnknownName."""
        return None if self.table.offer is None else catalog.offer(self.table.offer, self.own)


@dataclass(frozen=True, slots=True)
class Terms:
    """What devices of a cluster cost, draw and emit."""

    name: str
    offer: Offer | None
    rates: Rates
    site: Site
    shares: PowerShares
    rated_watts: float | None
    """None: not published, so that energy and CO2 are not known."""
    num_devices: int
    tokens: float | None

    def bill(self, breakdown: Breakdown, num_steps: float = 1.0) -> Bill:
        """The bill of some steps; of a breakdown of arrays one of arrays."""
        watts = mean_watts(breakdown, self.rated_watts or 0.0, self.shares)
        return bill(self.num_devices * breakdown.step_seconds * num_steps, watts, self.rates, self.site)

    def dollars(self, breakdown: Breakdown) -> Any:
        """Dollars of a step."""
        return self.bill(breakdown).total_dollars


def read(file: Path | None, flags: Mapping[str, Any]) -> MoneyAsked | None:
    """What a job file's `[money]` and `[[offers]]` ask under the given flags, which win; None when nothing does.

    Raises ValueError naming the file or the flags, the field, the value and what is right.
    """
    asked = jobfile.read(file, {}, {})
    stated = asked.money.model_dump(exclude_unset=True) if asked.money else {}
    own = parse_offers({"offers": asked.offers}, file or "") if asked.offers else ()
    flags = dict(flags)
    if "offers" in flags:
        own = (*own, *parse_offers(read_table(flags["offers"]), flags.pop("offers")))
    if not stated and not flags:
        if own and not asked.offers:
            raise ValueError(f"offers: a price list is given; name one of its offers, e.g. --offer {own[0].name}")
        return None
    if {"offer", "price"} & set(flags):  # a price on the command line replaces the offer of a file, and so back
        stated = {name: value for name, value in stated.items() if name not in ("offer", "price")}
    table = validated(MoneyTable, {**stated, **flags}, "money")
    if (table.offer is None) == (table.price is None):
        got = "both" if table.price is not None else "neither"
        raise ValueError(f"money: give an offer (--offer NAME) or a price (--price DOLLARS), got {got}")
    return MoneyAsked(table, own)


def on_offer(asked: MoneyAsked | None, job_flags: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """The flags of the job, with the cluster of the offer where neither they nor the file name one."""
    offer = asked.offer() if asked else None
    if offer is None or jobfile.read(file, job_flags, {}).job.cluster is not None:
        return dict(job_flags)
    return {**job_flags, "cluster": offer.cluster}


def terms_of(asked: MoneyAsked | None, question: Question, num_devices: int | None = None) -> Terms | None:
    """What the devices of a question cost; None when nothing is asked.

    Raises ValueError for an offer of other devices than the cluster's, or that cannot be had in this number, and for
    an owner's devices of unknown power.
    """
    if asked is None:
        return None
    cluster, table, offer = question.alike("money"), asked.table, asked.offer()
    count = num_devices or cluster.num_devices
    if offer is not None:
        _check(offer, cluster.accelerator.name, count)
    rated = table.device_watts or cluster.accelerator.power_watts
    if rated is None and offer is not None and offer.terms == "purchase":
        raise ValueError(f"device_watts: the power of {cluster.accelerator.name} is not published; state it in [money]")
    shares = power_shares()
    rates = rented(table.price / HOUR) if table.price is not None else Rates()
    if offer is not None:
        rates = rates_of(offer, installed_watts(rated or 0.0, shares), _ownership(table))
    return Terms(
        name=offer.name if offer else f"{table.price:g} dollars a device and hour",
        offer=offer,
        rates=rates,
        site=_site(table, offer),
        shares=shares,
        rated_watts=rated,
        num_devices=count,
        tokens=None if table.tokens is None else amount(table.tokens, "tokens", "15T"),
    )


def items_a_step(question: Question) -> float:
    """Tokens of a step, or samples of a plain list of layers."""
    job = question.job
    return float(job.global_batch) if isinstance(job.model, LayerList) else float(job.tokens_per_step)


def _check(offer: Offer, accelerator: str, num_devices: int) -> None:
    if offer.accelerator != accelerator:
        raise ValueError(f"offer: {offer.name} is of {offer.accelerator}, and the cluster has {accelerator}")
    if not offer.allows(num_devices):
        most = f", at most {offer.max_devices:,} in one cluster" if offer.max_devices else ""
        raise ValueError(
            f"devices: {offer.name} comes in instances of {offer.devices_per_instance}{most}, got {num_devices:,}"
        )


def _ownership(table: MoneyTable) -> OwnershipFigures:
    stated = table.model_dump(include=set(_OWNED), exclude_none=True)
    return validated(OwnershipFigures, ownership().model_dump() | from_vendor_units(stated), "money")


def _site(table: MoneyTable, offer: Offer | None) -> Site:
    """Where the offer's devices stand, or in a country of the user's."""
    price, grams = table.electricity_dollars_per_kwh, table.carbon_grams_per_kwh
    provider, region, country = (offer.provider, offer.region, offer.country) if offer else ("", "", "")
    if table.country and not is_known(table.country):
        raise ValueError(
            f"country: nothing is known of {table.country!r}; `meshwise profiles show carbon-countries` lists them"
        )
    return site(
        provider,
        "" if table.country else region,
        table.country or country,
        pue=table.pue,
        dollars_per_joule=None if price is None else price / KWH,
        carbon_kilograms_per_joule=None if grams is None else grams * MILLI / KWH,
    )


def bills(found: Terms, breakdown: Breakdown, question: Question, useful_fraction: float = 1.0) -> Sequence[Bill]:
    """The bills of a step, of a million tokens, and of the tokens asked for, if any.

    With a `useful_fraction` of less than 1 the last one pays for the rest of the time too.
    """
    a_step = items_a_step(question)
    made = [found.bill(breakdown), found.bill(breakdown, MEGA / a_step)]
    if found.tokens is not None:
        made.append(found.bill(breakdown, found.tokens / a_step / useful_fraction))
    return made
