"""What electricity, carbon, power and ownership come to: figures with their sources, each file one record."""

from typing import Annotated

from pydantic import Field

from profiles.files import read_table, validated
from profiles.lookup import find
from profiles.record import Fraction, NonNegative, Positive, Sourced

Pue = Annotated[float, Field(ge=1.0, le=5.0)]


class CostFigures(Sourced):
    """Figures that hold in some year."""

    as_of: str = Field(pattern=r"^\d{4}(-\d\d){0,2}$")


class SiteFigures(CostFigures):
    """Carbon intensity and price of electricity by region or country, or power usage effectiveness by provider.

    A file writes `carbon_grams_per_kwh` and `electricity_dollars_per_kwh`.
    """

    provider: str = ""
    """Whose regions these are; none: countries."""
    carbon_kilograms_per_joule: dict[str, NonNegative] = Field(default_factory=dict)
    electricity_dollars_per_joule: dict[str, Positive] = Field(default_factory=dict)
    pue: dict[str, Pue] = Field(default_factory=dict)
    countries: dict[str, str] = Field(default_factory=dict)
    """Region -> country."""


class PowerShares(CostFigures):
    """What a device and its share of the host draw, as shares of the device's rated power."""

    busy_fraction: Fraction
    """While it computes."""
    communication_fraction: Fraction
    idle_fraction: Fraction
    """While it waits, for other ranks or for the host."""
    host_fraction: NonNegative
    """The host, always."""


class OwnershipFigures(CostFigures):
    """What is bought and paid for beside a device, and how long it serves."""

    host_fraction: NonNegative
    """Rest of the server, over the price of bare devices."""
    network_fraction: NonNegative
    """Switches, cables and optics, over the price of servers."""
    storage_fraction: NonNegative
    lifetime_seconds: Positive
    """Straight-line depreciation."""
    residual_fraction: Fraction
    """Of the purchase price, at the end of that life."""
    utilisation_fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of its life in which a device does paid work."""
    staff_dollars_per_device_second: NonNegative
    colocation_dollars_per_watt_second: NonNegative
    """Space and cooling by rated power, used or not."""
    embodied_kilograms_per_device: NonNegative
    """CO2 of making it."""


def load(name: str) -> CostFigures:
    """The record called `name` as its file states it; raises UnknownName or BadFile."""
    path = find("costs", name)
    records: dict[str, type[CostFigures]] = {"power": PowerShares, "ownership": OwnershipFigures}
    return validated(records.get(path.stem, SiteFigures), read_table(path), path)


def power_shares() -> PowerShares:
    """What devices draw by what they do."""
    return validated(PowerShares, read_table(find("costs", "power")), "power")


def ownership() -> OwnershipFigures:
    """What owners pay beside the price."""
    return validated(OwnershipFigures, read_table(find("costs", "ownership")), "ownership")
