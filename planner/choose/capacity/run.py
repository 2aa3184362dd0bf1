"""What a pace means under the terms of an offer: goodput, days, dollars, and the chance that they are not enough.

All of it broadcasts over numbers of devices: one call serves every size of an offer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from planner.choose.capacity.demand import Demand
from planner.choose.capacity.pace import Pace
from planner.choose.capacity.risk import chance_above, interruption_spread, log_spread
from planner.cost.goodput import (
    Checkpoints,
    Goodput,
    Interruptions,
    best_interval_seconds,
    fleet_interruptions,
    goodput,
)
from profiles.offer import Offer

Floats = Any
"""A float, or an array with one value a number of devices."""


@dataclass(frozen=True, slots=True)
class Run:
    """How long a training run takes, and what stops it on the way; arrays have one value a number of devices."""

    seconds: Floats
    """As predicted, from the first step to the last, with interruptions and checkpoints."""
    median_seconds: Floats
    """The middle of the log-normal distribution that the error bar stands for."""
    spread_fraction: Floats
    """Standard deviation of the logarithm: of the step and of the chance of interruptions, taken as independent."""
    num_steps: Floats
    num_interruptions: Floats
    stops: Interruptions
    saves: Checkpoints
    goodput: Goodput

    def quantile_seconds(self, num_deviations: Floats) -> Floats:
        """The length that lies so many standard deviations of the logarithm over the median."""
        return self.median_seconds * np.exp(num_deviations * self.spread_fraction)

    def late_fraction(self, deadline_seconds: Floats) -> Floats:
        """Probability of taking longer."""
        return chance_above(deadline_seconds, self.median_seconds, self.spread_fraction)


def run_of(offer: Offer, num_devices: Any, paces: Sequence[Pace], demand: Demand) -> Run:
    """The run that meets `demand` at each of the `paces`, which are those of `num_devices` devices.

    Failures of the fleet and withdrawals of spot instances add up; the job stands still while a checkpoint is written,
    at the interval that is best for it. A job that is interrupted before it can do anything takes forever.
    """
    fleet = demand.fleet
    columns = [
        (one.step_seconds, one.low_seconds, one.high_seconds, one.level_fraction, one.state_bytes) for one in paces
    ]
    step, low, high, level, state_bytes = np.array(columns).T
    rate = fleet.interruptions_per_device_second + offer.interruptions_per_device_second
    transfer = state_bytes / demand.storage_rate(num_devices)
    stops = fleet_interruptions(fleet, 1.0 / (rate * demand.failure_factor * num_devices), transfer)
    saves = Checkpoints(best_interval_seconds(stops, transfer), transfer)
    num_steps = np.ceil(demand.tokens / demand.tokens_per_step)
    median, step_spread = log_spread(low, high, level)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        shares = goodput(stops, saves)
        useful = np.nan_to_num(shares.useful_fraction)
        stretch = num_steps / demand.speed_factor / useful
        seconds = step * stretch
        chance = np.nan_to_num(interruption_spread(seconds, stops, saves))
    return Run(
        seconds=seconds,
        median_seconds=median * stretch,
        spread_fraction=np.hypot(step_spread, chance),
        num_steps=num_steps,
        num_interruptions=seconds / stops.seconds_between,
        stops=stops,
        saves=saves,
        goodput=shares,
    )


def row(of: Any, index: int) -> Any:
    """The same record with each array's value at `index`, as a float; records within it likewise."""

    def pick(value: Any) -> Any:
        if hasattr(value, "__dataclass_fields__"):
            return row(value, index)
        return float(value[index]) if getattr(value, "ndim", 0) else value

    return type(of)(**{field.name: pick(getattr(of, field.name)) for field in fields(of)})
