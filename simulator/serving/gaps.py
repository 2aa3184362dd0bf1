"""Times between tokens as users see them stream, counted in bins that grow by a constant factor."""

import math

import numpy as np

from simulator.serving.requests import Floats

_LEAST_SECONDS, _MOST_SECONDS, _GROWTH = 1e-6, 1e5, 1.01
_NUM_BINS = math.ceil(math.log(_MOST_SECONDS / _LEAST_SECONDS) / math.log(_GROWTH))
_MOST_PARTS = 8


class Gaps:
    """How often each gap was seen; percentiles are right to half a bin, 0.5 %."""

    __slots__ = ("_counts", "num_gaps", "seconds")

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self.num_gaps = 0.0
        self.seconds = 0.0
        """Sum of all."""

    def add(self, first_seconds: float, longer_seconds: float, num_iterations: int, num_requests: int) -> None:
        """Gaps of `num_requests` in a run whose iteration j takes first_seconds + j * longer_seconds."""
        if num_iterations <= 0 or num_requests <= 0:
            return
        last_seconds = first_seconds + (num_iterations - 1) * longer_seconds
        wide = math.log(last_seconds / first_seconds) / math.log(_GROWTH) if longer_seconds > 0.0 else 0.0
        parts = min(max(math.ceil(wide), 1), num_iterations, _MOST_PARTS)
        each = num_requests * num_iterations / parts
        for part in range(parts):
            seconds = first_seconds + (part + 0.5) / parts * (last_seconds - first_seconds)
            place = min(max(int(math.log(seconds / _LEAST_SECONDS) / math.log(_GROWTH)), 0), _NUM_BINS - 1)
            self._counts[place] = self._counts.get(place, 0.0) + each
        self.num_gaps += num_requests * num_iterations
        self.seconds += num_requests * num_iterations * 0.5 * (first_seconds + last_seconds)

    @property
    def mean_seconds(self) -> float:
        """NaN where no answer had a second token."""
        return self.seconds / self.num_gaps if self.num_gaps else math.nan

    def percentile_seconds(self, percent: float) -> float:
        """That `percent` of the gaps stay below; NaN where there are none."""
        if not self.num_gaps:
            return math.nan
        places = np.array(sorted(self._counts))
        reached: Floats = np.cumsum([self._counts[int(place)] for place in places])
        place = places[min(int(np.searchsorted(reached, percent / 100.0 * self.num_gaps)), len(places) - 1)]
        return float(_LEAST_SECONDS * _GROWTH ** (place + 0.5))
