"""How many replicas each hour needs, and how long they are paid for. Everything broadcasts; hours are the last axis."""

from typing import Any

import numpy as np
from scipy.stats import binom

from profiles.units import HOUR

Counts = Any
"""Whole numbers as floats, of shape (..., hours)."""


def needed(requests_per_second: Any, most_requests_per_second: Any, headroom_fraction: Any) -> Counts:
    """Replicas that take the load of each hour with some of it to spare; at least one."""
    wanted = np.asarray(requests_per_second) * (1.0 + headroom_fraction) / most_requests_per_second
    return np.maximum(np.ceil(wanted * (1.0 - 1e-12)), 1.0)


def static(counts: Counts) -> Counts:
    """The same replicas at all hours: those of the busiest."""
    return np.broadcast_to(counts.max(axis=-1, keepdims=True), counts.shape)


def autoscaled(counts: Counts, startup_seconds: float) -> Counts:
    """Replica-hours paid in each hour when replicas come and go: those that answer, and those that start for the next.

    A replica that the next hour needs is asked for `startup_seconds` before it. Hours repeat. No hour pays for more
    than the busier of it and those within the start-up.
    """
    growth = np.maximum(np.roll(counts, -1, axis=-1) - counts, 0.0)
    return counts + growth * min(startup_seconds / HOUR, 1.0)


def devices(counts: Counts, devices_per_replica: Any, devices_per_instance: Any) -> Any:
    """Devices of so many replicas, in whole instances; a replica lies within one, or takes several whole ones."""
    per_instance = np.maximum(devices_per_instance // devices_per_replica, 1)
    instances_each = np.ceil(devices_per_replica / devices_per_instance)
    return np.ceil(counts / per_instance) * instances_each * devices_per_instance


def spot_share(counts: Counts, fraction: float, available_fraction: float) -> tuple[Counts, Counts]:
    """(replicas that stay, spot replicas) of each hour: at most `fraction` are spot, of which some more are held so
    that as many answer on average as are needed."""
    spot = np.floor(counts * fraction)
    return counts - spot, np.ceil(spot / available_fraction * (1.0 - 1e-12))


def available(interruptions_per_second: float, startup_seconds: float) -> float:
    """Share of the time in which a spot replica answers: up for 1 / rate on average, then replaced in a start-up time
    [alternating renewal: Ross 2014, Introduction to Probability Models, section 7.5]."""
    return 1.0 / (1.0 + interruptions_per_second * startup_seconds)


def chance_short(spot: Any, wanted: Any, available_fraction: float) -> Any:
    """Chance that fewer than `wanted` of `spot` replicas answer at a time, each lost independently of the others."""
    return binom.cdf(wanted - 1.0, spot, available_fraction)
