"""Whether a plan fits into the memory of a device, and how sure that is."""

from enum import StrEnum
from typing import Any

from planner.cost.memory import MemoryBreakdown, usable_bytes
from profiles.cluster import Cluster
from profiles.software import SoftwareStack


class Fit(StrEnum):
    """The verdict on one plan."""

    FITS = "fits"
    """Even if the allocator wastes as much as in the worst tenth of measured runs."""
    RISKY = "risky"
    """With the usual fragmentation, but not with that of the worst tenth."""
    TOO_BIG = "does not fit"


def upper_bytes(memory: MemoryBreakdown, stack: SoftwareStack) -> Any:
    """Device memory that nine of ten runs like this stay below: fragmentation varies from run to run.

    Source: see `SoftwareStack.reserved_p90_over_median`.
    """
    return memory.context_bytes + stack.reserved_p90_over_median * memory.reserved_bytes


def fit_of(memory: MemoryBreakdown, cluster: Cluster, stack: SoftwareStack) -> Fit:
    """The verdict on one plan's memory."""
    usable = usable_bytes(cluster, stack)
    if memory.device_bytes > usable:
        return Fit.TOO_BIG
    return Fit.RISKY if upper_bytes(memory, stack) > usable else Fit.FITS
