"""The `[money]` table of a job file, and the options that win over it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from profiles.costs import Pue
from profiles.record import Fraction, NonNegative, Positive


class MoneyTable(BaseModel):
    """The `[money]` table; None where the catalog decides. Units are those that prices are quoted in."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    offer: str | None = None
    price: Positive | None = None
    """Dollars a device and hour, in place of an offer."""
    tokens: float | str | None = None
    """To count dollars for: a number, or 15T."""
    country: str = ""
    pue: Pue | None = None
    electricity_dollars_per_kwh: Positive | None = None
    carbon_grams_per_kwh: NonNegative | None = None
    device_watts: Positive | None = None
    """Rated power of a device, in place of the accelerator's."""
    host_fraction: NonNegative | None = None
    network_fraction: NonNegative | None = None
    storage_fraction: NonNegative | None = None
    lifetime_years: Positive | None = None
    residual_fraction: Fraction | None = None
    utilisation_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    staff_dollars_per_device_hour: NonNegative | None = None
    colocation_dollars_per_kw_month: NonNegative | None = None
