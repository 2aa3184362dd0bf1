"""Tables of one and of two numbers, linear between their knots and continued along their outermost pieces."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Knots:
    """A piecewise linear function of one number, continued along its last piece."""

    at: list[float]
    values: list[float]

    @classmethod
    def of(cls, at: Floats, values: Any) -> "Knots":
        """The function with these knots; `values` broadcast over them."""
        return cls(at.tolist(), np.broadcast_to(np.asarray(values, np.float64), at.shape).tolist())

    def __call__(self, x: float) -> float:
        """The value at one number."""
        low, share = _place(self.at, x)
        return self.values[low] * (1.0 - share) + self.values[low + 1] * share


def geometric(first: float, last: float, steps_a_doubling: int, *, exact_until: int = 0) -> Floats:
    """Knots from `first` to `last`: every whole number until `exact_until`, then so many in each doubling."""
    whole = np.arange(first, exact_until + 1.0)
    start = max(float(exact_until), first)
    num = int(np.ceil(np.log2(last / start) * steps_a_doubling))
    return np.unique(np.concatenate([whole, np.round(start * 2.0 ** (np.arange(num + 1) / steps_a_doubling))]))


@dataclass(frozen=True, slots=True)
class Sheet:
    """A function of two numbers, bilinear between its knots."""

    first: list[float]
    second: list[float]
    values: list[list[float]]

    def __call__(self, x: float, y: float) -> float:
        """The value at two numbers, continued along its outermost pieces."""
        low, share = _place(self.first, x)
        left, part = _place(self.second, y)
        near, far = self.values[low], self.values[low + 1]
        at_low = near[left] * (1.0 - part) + near[left + 1] * part
        at_high = far[left] * (1.0 - part) + far[left + 1] * part
        return at_low * (1.0 - share) + at_high * share


def _place(knots: list[float], x: float) -> tuple[int, float]:
    low = min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)
    return low, (x - knots[low]) / (knots[low + 1] - knots[low])
