"""Whether a machine has time for a measurement: its load, and how fast one fixed product is from time to time."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from validate.calibration.machine import num_cores

_SIZE, _SECONDS = 64, 0.05
MOST_SPREAD_FRACTION = 0.15
"""A fixed product varies by some percent on a quiet machine; by more, its speed has changed under way."""
MOST_LOAD_FRACTION = 0.25
"""Processes that want a core before anything was started, over cores."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The machine at one moment, while nothing of ours runs."""

    load: float
    """Processes that wanted to run in the last minute, in the mean; the ones measured before are among them."""
    products_per_second: float
    """Of one fixed product of small matrices on one thread."""

    @classmethod
    def now(cls) -> "Probe":
        """Look at the load, then multiply for a twentieth of a second; the median product counts."""
        matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
        seconds: list[float] = []
        while sum(seconds) < _SECONDS:
            start = time.perf_counter()
            np.einsum("ij,jk->ik", matrix, matrix)  # a loop of numpy's own: its @ starts threads
            seconds.append(time.perf_counter() - start)
        return cls(os.getloadavg()[0], 1.0 / float(np.median(seconds)))

    def as_dict(self) -> dict[str, Any]:
        """Field -> figure."""
        return {name: getattr(self, name) for name in self.__slots__}


def spread_fraction(probes: Sequence[Probe]) -> float:
    """How much slower the slowest of some probes was than the fastest; 0 of fewer than two."""
    rates = [probe.products_per_second for probe in probes]
    return max(rates) / min(rates) - 1.0 if len(rates) > 1 else 0.0


def doubts(probes: Sequence[Probe]) -> list[str]:
    """What speaks against timings taken between these probes, in words; nothing on a quiet machine."""
    found = []
    if probes and probes[0].load > MOST_LOAD_FRACTION * num_cores():
        found.append(f"{probes[0].load:.1f} processes wanted the {num_cores()} cores before the first launch")
    if (spread := spread_fraction(probes)) > MOST_SPREAD_FRACTION:
        found.append(f"a fixed matrix product took {1.0 + spread:.1f} times as long at one time as at another")
    return found
