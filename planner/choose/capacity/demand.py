"""What is to be done, by when, for how much, and under which circumstances."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from profiles.costs import OwnershipFigures, PowerShares, ownership, power_shares
from profiles.reliability import Reliability
from profiles.units import DAY


@dataclass(frozen=True, slots=True)
class Demand:
    """A training run as its buyer states it. The factors at the end are 1 but for questions of what would be if."""

    tokens: float
    """Tokens (or samples) to train on."""
    tokens_per_step: float
    fleet: Reliability
    """Whose failures, restarts and storage are assumed."""
    deadline_seconds: float = np.inf
    """From the start of the run."""
    budget_dollars: float = np.inf
    max_risk_fraction: float = 0.1
    """A cluster is good enough while the chance of ending late, or of costing more than the budget, is at most this."""
    spare_fraction: float = 0.0
    """Devices held in reserve and paid for, over those that work; of what is bought or reserved."""
    power: PowerShares = field(default_factory=power_shares)
    """What devices draw by what they do."""
    ownership: OwnershipFigures = field(default_factory=ownership)
    """What owners pay beside the price, and for how long devices serve them."""
    place: Mapping[str, Any] = field(default_factory=dict)
    """What is known better than by an offer's region: `pue`, `country` and other arguments of `profiles.site.site`."""
    storage_bytes_per_second: float | None = None
    """At which checkpoints are written and read; None: the fleet's, per device."""
    price_factor: float = 1.0
    """On rents and purchase prices."""
    speed_factor: float = 1.0
    """On the speed of steps: what a better or worse utilisation would be."""
    failure_factor: float = 1.0
    """On how often the job is interrupted."""

    @property
    def deadline_days(self) -> float:
        """The same in days."""
        return self.deadline_seconds / DAY

    def storage_rate(self, num_devices: float) -> float:
        """Bytes per second of the storage of a job on `num_devices` devices."""
        if self.storage_bytes_per_second is not None:
            return self.storage_bytes_per_second
        return self.fleet.storage_bytes_per_second_per_device * num_devices
