"""A training job on the devices that serving leaves, hour by hour: how big it is when, and what each change costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.choose.serving_capacity.demand import Floats
from profiles.units import DAY, HOUR


@dataclass(frozen=True, slots=True)
class TrainingPace:
    """The job on some number of devices."""

    num_devices: int
    tokens_per_second: float
    """Failures and checkpoints included."""
    resize_seconds: float
    """Standing still when it changes to this number: a checkpoint written, the job launched anew, and read back."""


@dataclass(frozen=True, slots=True)
class SharedHours:
    """Training by the hour, over the hours of the load."""

    devices: Floats
    """Of the training job, shape (hours,)."""
    num_changes: int
    """Of its size, over those hours."""
    resize_seconds: float
    """Lost to them."""
    tokens_per_day: float


def best_shared(free_devices: Floats, paces: Sequence[TrainingPace]) -> SharedHours:
    """The most tokens from `free_devices` of each hour.

    In every hour the largest size that fits, up to a cap: a lower cap wastes devices and saves changes, and every size
    is tried as the cap; the lowest that always fits never changes. Hours repeat.
    """
    sizes = np.array([0.0, *(float(pace.num_devices) for pace in paces)])
    rates = np.array([0.0, *(pace.tokens_per_second for pace in paces)])
    pauses = np.array([0.0, *(pace.resize_seconds for pace in paces)])
    order = np.argsort(sizes)
    sizes, rates, pauses = sizes[order], rates[order], pauses[order]
    caps = sizes[:, None]
    chosen = np.searchsorted(sizes, np.minimum(free_devices, caps), side="right") - 1
    changed = chosen != np.roll(chosen, 1, axis=-1)
    lost = np.minimum(np.where(changed, pauses[chosen], 0.0), HOUR)
    tokens = (rates[chosen] * (HOUR - lost)).sum(axis=-1)
    best = int(np.argmax(tokens))
    days = len(free_devices) * HOUR / DAY
    return SharedHours(
        sizes[chosen[best]], int(changed[best].sum()), float(lost[best].sum()), float(tokens[best]) / days
    )
