"""Replicas that come and go: autoscaling by load, with the time a replica takes to start, and failures."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Keeps the requests of a replica near a target, as a horizontal autoscaler does.

    Every `interval_seconds` the pool wants as many replicas as its requests over `num_requests_per_replica`, between
    `least` and `most`. A new one takes requests after `startup_seconds`; one too many finishes those it has.
    """

    least: int
    most: int
    num_requests_per_replica: float
    """A replica's requests under way and waiting."""
    startup_seconds: float
    """From the decision until the model is loaded and warm."""
    interval_seconds: float = 15.0
    """Kubernetes' horizontal pod autoscaler looks every 15 s unless told otherwise."""
    quiet_seconds: float = 300.0
    """Fewer replicas are wanted only after nothing more was for so long (its stabilization window)."""

    def __post_init__(self) -> None:
        """Raises ValueError for bounds that cross and a target that no replica meets."""
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least: {self.least} to {self.most} replicas; at least 1, and no more than the most")
        if self.num_requests_per_replica <= 0.0 or self.interval_seconds <= 0.0:
            raise ValueError("num_requests_per_replica, interval_seconds: must be above 0")

    def wanted(self, num_requests: int) -> int:
        """Replicas for so many requests."""
        return min(max(ceil(num_requests / self.num_requests_per_replica), self.least), self.most)


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica is lost, and what it ran goes to others: prompts and answers so far are computed again there."""

    at_seconds: float
    repair_seconds: float
    """Until it takes requests again."""
    replica: int = 0
    """Which, of those of its pool."""
