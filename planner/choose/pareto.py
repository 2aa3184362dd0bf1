"""Fronts: the plans that no other plan beats in everything that is asked of them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.plan import Plan, PlanGrid

Floats = NDArray[np.float64]


def front_rows(first: Floats, second: Floats) -> NDArray[np.intp]:
    """Rows that no other row beats or equals in both columns (smaller is better), by ascending `first`.

    Of equal rows the earliest stays. A sort and one running minimum [Kung 1975, doi:10.1145/321906.321910].
    """
    order = np.lexsort((second, first))
    best = np.minimum.accumulate(second[order])
    improves = np.ones(len(order), dtype=bool)
    improves[1:] = second[order][1:] < best[:-1]
    return order[improves]


def front_mask(costs: Floats) -> NDArray[np.bool_]:
    """Which rows of `costs`, shape (rows, columns), no other row beats: at least as small in all, smaller in one.

    For short lists: compares every pair.
    """
    no_larger = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    smaller = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    return np.asarray(~(no_larger & smaller).any(axis=0))


@dataclass(slots=True)
class Front:
    """The front of step time and memory over plans that come in chunks."""

    plans: PlanGrid = field(default_factory=lambda: PlanGrid.of([]))
    step_seconds: Floats = field(default_factory=lambda: np.empty(0))
    peak_bytes: Floats = field(default_factory=lambda: np.empty(0))

    def add(self, plans: PlanGrid, step_seconds: Floats, peak_bytes: Floats) -> None:
        """Take in a chunk."""
        own = front_rows(step_seconds, peak_bytes)
        seconds = np.concatenate([self.step_seconds, step_seconds[own]])
        num_bytes = np.concatenate([self.peak_bytes, peak_bytes[own]])
        kept = front_rows(seconds, num_bytes)
        known = list(self.plans)
        merged: list[Plan] = [
            known[row] if row < len(known) else plans.plan(int(own[row - len(known)])) for row in kept
        ]
        self.plans, self.step_seconds, self.peak_bytes = PlanGrid.of(merged), seconds[kept], num_bytes[kept]
