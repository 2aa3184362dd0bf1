"""The base of every record that comes from outside: frozen, strict about names, and with its source."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from profiles.units import from_vendor_units

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Record(BaseModel):
    """A frozen record. Vendor units in keys are converted to SI before validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _vendor_units(cls, values: Any) -> Any:
        return from_vendor_units(values) if isinstance(values, dict) else values


class Sourced(Record):
    """A record whose figures say where they came from; without `source` it does not load."""

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    unverified: tuple[str, ...] = ()
    """Fields whose figure was recalled rather than read from the source."""
    notes: str = ""
