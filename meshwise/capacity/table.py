"""The `[capacity]` table of a job file, and the options of `meshwise capacity` that win over it."""

from datetime import date

from pydantic import Field

from meshwise.capacity.among import Among, Words

Amount = float | int | str
"""A number, or as people write it: 15T, 5M."""


class CapacityTable(Among):
    """What is to be done, by when, for how much, and among which offers; None where a default will do."""

    tokens: Amount | None = None
    start: date | str | None = None
    deadline: date | str | None = None
    budget: Amount | None = None
    max_risk: float = Field(default=0.1, gt=0.0, lt=1.0)
    counts: str | tuple[int, ...] | None = None
    fleet: str | None = None
    spares: float | None = Field(default=None, ge=0.0, le=1.0)
    storage_gb_per_second: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    country: str | None = None
    pue: float | None = Field(default=None, ge=1.0, le=5.0)
    electricity_dollars_per_kwh: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    carbon_grams_per_kwh: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    ownership: dict[str, float] = Field(default_factory=dict)
    """Figures of owners in place of the catalog's, as in profiles/data/costs/ownership.toml."""
    family: Words = ()
