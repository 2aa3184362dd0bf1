"""Which memory a source read, and in which unit."""

import re

from planner.cost.memory import MemoryBreakdown
from profiles.units import GIB, GIGA
from validate.runs.frameworks import Reading, framework_of
from validate.runs.table import Run

_READINGS: dict[str, Reading] = {"allocated": "allocated", "alloc_mem": "allocated", "reserved": "reserved"}


def reading_of(run: Run) -> Reading:
    """What the notes say was read; else what the framework's own logs report; else the device's own tool."""
    found = re.search(r"\b(allocated|alloc_mem|reserved)\b", run.notes, re.IGNORECASE)
    if found:
        return _READINGS[found.group(1).lower()]
    rule = framework_of(run)
    return rule.memory if rule else "device"


def measured_bytes(run: Run) -> float:
    """The peak that was read; allocators are logged in GiB, other figures are GB unless the notes say GiB."""
    in_gib = "GiB" in run.notes or reading_of(run) != "device"
    return (run.peak_memory_gb or 0.0) * (GIB if in_gib else GIGA)


def predicted_bytes(memory: MemoryBreakdown, run: Run) -> float:
    """The same reading of a predicted memory."""
    figures = {
        "allocated": memory.allocated_bytes, "reserved": memory.reserved_bytes, "device": memory.device_bytes,
    }  # fmt: skip
    return float(figures[reading_of(run)])
