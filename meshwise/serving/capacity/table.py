"""The `[capacity]` table of a serving job."""

from typing import Annotated

from pydantic import Field

from meshwise.capacity.among import Among
from profiles.record import Count, Fraction, NonNegative, Positive, Record


class TrainingBesideTable(Record):
    """A training job that takes the devices that serving leaves, hour by hour."""

    job: str
    """Its job file."""
    tokens: Positive
    fleet: str | None = None
    """Whose restarts and storage are assumed (`profiles list reliability`); None: those of the training verbs."""


class ServingCapacityTable(Among, Record):
    """How the load changes by the hour, among which offers, and how replicas follow it."""

    hourly: tuple[NonNegative, ...] = ()
    """Of requests_per_second, hour by hour; (): as the trace or the law of arrivals has it."""
    startup_seconds: NonNegative = 300.0
    """From asking for a replica until it answers."""
    headroom: NonNegative = 0.0
    """Share of the load to keep free, beside what `max_risk` asks for."""
    max_risk: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Chance that the busiest hour misses the targets."""
    spot_fraction: Fraction = 0.5
    """Of the replicas, that may be such as are taken back."""
    max_hosts: Count = 2
    """That one replica may span, where it does not fit on one."""
    training: TrainingBesideTable | None = None
