"""What is asked of a fleet of replicas: requests by the hour, and how much room is left for what is not known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ServedDay:
    """A load by the hour, which repeats, and how replicas follow it."""

    requests_per_second: Floats
    """Mean of each hour, shape (hours,)."""
    input_tokens: float
    """Of a request, on average."""
    output_tokens: float
    startup_seconds: float = 300.0
    """From asking for a replica until it answers; it is paid for meanwhile."""
    headroom_fraction: float = 0.0
    """Of the load, kept free at least."""
    max_risk_fraction: float = 0.1
    """Chance that the busiest hour misses the targets, by error of the prediction or for want of spot replicas."""
    spot_fraction: float = 0.5
    """Of the replicas of any hour, that may be such as are taken back."""

    @property
    def num_hours(self) -> int:
        """After which the load begins again."""
        return len(self.requests_per_second)

    @property
    def peak_requests_per_second(self) -> float:
        """Of the busiest hour."""
        return float(self.requests_per_second.max())

    def headroom(self, error_factor: float) -> float:
        """The share of the load to keep free when rates are log-normal around what is said, with one standard deviation
        a factor of `error_factor`: `error_factor` to the quantile of the risk as many replicas are needed.
        """
        return max(self.headroom_fraction, float(error_factor ** ndtri(1.0 - self.max_risk_fraction)) - 1.0, 0.0)
