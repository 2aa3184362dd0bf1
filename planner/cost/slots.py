"""Waiting for a place among the requests that run: how likely it is, and for how long.

A replica runs only so many requests at a time, and only as many as its memory holds; how many would run varies about
its mean. Everything broadcasts over rates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaincc, gammaln

Numbers = Any
"""A float or an array of one value a rate."""


@dataclass(frozen=True, slots=True)
class SlotWait:
    """Of requests that come where no place may be free."""

    chance_fraction: Numbers
    """Of finding none."""
    delay_seconds: Numbers
    """Mean of those that find none; it is nearly exponential."""

    @property
    def mean_seconds(self) -> Numbers:
        """Of all requests."""
        return self.chance_fraction * self.delay_seconds

    def tail_seconds(self, fraction: float) -> Numbers:
        """That all but a `fraction` of requests stay below."""
        return self.delay_seconds * np.log(np.maximum(self.chance_fraction / fraction, 1.0))


def slot_wait(
    num_slots: float, busy: Numbers, held_seconds: Numbers, peakedness: Numbers, spread_fraction: float
) -> SlotWait:
    """Where requests hold one of `num_slots` for `held_seconds`, and `busy` of them would run on average.

    Erlang's C(c / z, a / z), with the peakedness z: variance of the number that would run, over its mean [Hayward's
    approximation: Fredericks 1980, Bell System Technical Journal 59(6), section II]. Those that wait do for
    S z (1 + v**2) / 2 / (c - a), v being the deviation of S over its mean [Whitt 1993, Approximations for the GI/G/m
    queue, Production and Operations Management 2(2), eq. 2.14].
    """
    free = np.maximum(num_slots - busy, 1e-9)
    delay = held_seconds * peakedness * 0.5 * (1.0 + spread_fraction**2) / free
    return SlotWait(erlang_c(num_slots / peakedness, busy / peakedness), delay)


def erlang_c(slots: Numbers, busy: Numbers) -> Numbers:
    """Chance that all of `slots`, which need not be whole, are taken; 1 where as many are busy.

    With Erlang's B(c, a) = a**c exp(-a) / c! / Q(c + 1, a), C = B / (1 - (a / c) (1 - B))
    [Kleinrock 1975, Queueing Systems I, sections 3.5 and 3.6].
    """
    load = np.clip(busy, 1e-12, slots)
    density = np.exp(slots * np.log(load) - load - gammaln(slots + 1.0))
    lost = density / np.maximum(gammaincc(slots + 1.0, load), 1e-300)
    return lost / np.maximum(1.0 - load / slots * (1.0 - lost), 1e-12)
