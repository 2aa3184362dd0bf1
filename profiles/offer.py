"""What is for sale: accelerators for rent by the hour, on-demand, reserved or spot, and to buy.

A price list is one provider's file of offers; what they have in common (provider, date, source, the rate at which spot
instances are taken back) is said once, at its top. Users write their own in the same form.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from profiles.cluster import NumDevices
from profiles.lookup import key
from profiles.record import Count, Positive, Sourced
from profiles.units import HOUR

Terms = Literal["on-demand", "reserved", "spot", "purchase"]
_SPOT_RATE = "interruptions_per_instance_hour"
_SHARED = ("provider", "region", "country", "as_of", "source", "network_is_published", _SPOT_RATE)
"""Fields that a price list may say once for all its offers."""


class Offer(Sourced):
    """Accelerators that somebody rents out or sells. In US dollars, before tax.

    A file writes rates by the hour: `dollars_per_device_hour`, `interruptions_per_instance_hour`.
    """

    provider: str = Field(min_length=1)
    instance: str = ""
    """What the provider calls it."""
    accelerator: str
    cluster: str
    """What jobs run on: a cluster, node or accelerator of the catalog, or a cluster's .toml."""
    network_is_published: bool = True
    """False: the provider does not say how the nodes are joined, and those of `cluster` are assumed."""
    terms: Terms
    dollars_per_device_second: Positive | None = None
    """Of rent, with the host and the network that come with it."""
    commitment_seconds: Positive | None = None
    """How long reserved devices are paid for."""
    purchase_dollars_per_device: Positive | None = None
    includes: Literal["device", "server", "cluster"] | None = None
    """What a purchase price buys: the bare device, its share of a server, or of a cluster with its network."""
    interruptions_per_instance_second: Positive | None = None
    """How often a spot instance, running, is taken back; all its devices go at once."""
    devices_per_instance: Count = 1
    """The least that can be had."""
    max_devices: NumDevices | None = None
    """The most that can work as one cluster; None: any number."""
    region: str = ""
    country: str = ""
    """Of the region; the grid that feeds it."""
    as_of: str = Field(default="", pattern=r"^(\d{4}(-\d\d){0,2})?$")
    """When the price held."""

    @model_validator(mode="after")
    def _priced_by_its_terms(self) -> "Offer":
        wanted = {
            "dollars_per_device_hour": (self.dollars_per_device_second, self.terms != "purchase"),
            "purchase_dollars_per_device": (self.purchase_dollars_per_device, self.terms == "purchase"),
            "includes": (self.includes, self.terms == "purchase"),
            "interruptions_per_instance_hour": (self.interruptions_per_instance_second, self.terms == "spot"),
        }
        for field, (value, belongs) in wanted.items():
            if (value is not None) != belongs:
                said = "is missing" if belongs else "does not belong there; leave it out"
                raise ValueError(f"{field}: terms are {self.terms!r}, and it {said}")
        if self.commitment_seconds is not None and self.terms != "reserved":
            raise ValueError(f"commitment_days: terms are {self.terms!r}; only reserved devices are committed to")
        if self.max_devices is not None and self.max_devices < self.devices_per_instance:
            least = self.devices_per_instance
            raise ValueError(f"max_devices: must be at least devices_per_instance {least}, got {self.max_devices}")
        return self

    @property
    def dollars_per_device_hour(self) -> float | None:
        """The rent as price lists state it; None of a purchase."""
        return None if self.dollars_per_device_second is None else self.dollars_per_device_second * HOUR

    @property
    def interruptions_per_device_second(self) -> float:
        """How often spot instances are taken back, per device of a job; 0 on other terms."""
        return (self.interruptions_per_instance_second or 0.0) / self.devices_per_instance

    def allows(self, num_devices: int) -> bool:
        """Whether so many devices are whole instances, and no more than work as one cluster."""
        return num_devices % self.devices_per_instance == 0 and num_devices <= (self.max_devices or num_devices)


class PriceList(Sourced):
    """One provider's offers."""

    provider: str = ""
    offers: tuple[Offer, ...]

    @model_validator(mode="before")
    @classmethod
    def _said_once(cls, values: Any) -> Any:
        """Give each offer what the list says for all, and a name made of list, instance, terms and region."""
        if not isinstance(values, Mapping) or not isinstance(values.get("offers"), list | tuple):
            return values
        shared = {field: values[field] for field in _SHARED if field in values}
        rest = {field: value for field, value in values.items() if field not in _SHARED or field in cls.model_fields}
        name, doubts = values.get("name", ""), values.get("unverified", ())
        offers = [_filled(offer, shared, doubts, name) for offer in values["offers"]]
        return rest | {"offers": offers}

    @model_validator(mode="after")
    def _names_are_unique(self) -> "PriceList":
        if not self.offers:
            raise ValueError("offers: the list is empty; give at least one [[offers]]")
        seen: set[str] = set()
        for offer in self.offers:
            if offer.name in seen:
                raise ValueError(f"offers: two are called {offer.name!r}; give one of them another name")
            seen.add(offer.name)
        return self


def _filled(offer: Any, shared: Mapping[str, Any], doubts: Sequence[str], list_name: str) -> Any:
    if not isinstance(offer, Mapping):
        return offer
    filled = {**shared, **offer}
    if _SPOT_RATE in shared and _SPOT_RATE not in offer:
        if filled.get("terms") == "spot":
            filled["unverified"] = [*offer.get("unverified", ()), *doubts]
        else:
            del filled[_SPOT_RATE]
    if "name" not in filled:
        parts = (list_name, filled.get("instance") or filled.get("accelerator"), filled.get("terms"),
                 filled.get("region"))  # fmt: skip
        filled["name"] = "-".join(key(str(part)) for part in parts if part)
    return filled
