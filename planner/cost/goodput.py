"""The useful share of a long run: closed forms for interruptions, checkpoints and restarts.

Interruptions are memoryless. A run between two of them saves some checkpoints and loses what it did since the
last; each is followed by a restart, which may be interrupted itself. All functions broadcast over arrays.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.special import lambertw

from planner.cost.states import NUM_MOMENTS
from profiles.parameters import mtp_parameters, num_parameters
from profiles.reliability import Reliability
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

Seconds = Any


@dataclass(frozen=True, slots=True)
class Interruptions:
    """What stops a job, and for how long."""

    seconds_between: Seconds
    """Mean running (or restarting) time until the next interruption."""
    restart_seconds: Seconds
    """From an interruption to the first new step, reading the checkpoint included."""
    manual_fraction: Seconds = 0.0
    """Share of the restarts that a person makes."""
    manual_seconds: Seconds = 0.0
    """What such a restart takes in place of `restart_seconds`."""


def fleet_interruptions(fleet: Reliability, seconds_between: Seconds, reading_seconds: Seconds) -> Interruptions:
    """Of a job that a fleet's failures stop every `seconds_between`, and that reads a checkpoint at every restart."""
    return Interruptions(
        seconds_between, fleet.restart_seconds + reading_seconds,
        fleet.manual_restart_fraction, fleet.manual_restart_seconds + reading_seconds,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How a job saves its state."""

    interval_seconds: Seconds
    """Work between two checkpoints."""
    stall_seconds: Seconds
    """The job stands still so long at each: the whole write, or the copy to host memory of an asynchronous one."""
    write_seconds: Seconds = 0.0
    """An asynchronous checkpoint counts so long after its stall, when it has reached the storage."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """Shares of wall-clock time; they sum to 1."""

    useful_fraction: Any
    """Steps whose result was kept."""
    checkpoint_fraction: Any
    """Standing still for checkpoints that were kept."""
    lost_fraction: Any
    """Steps and checkpoints since the last saved state at each interruption."""
    restart_fraction: Any
    waiting_fraction: Any = 0.0
    """For want of a spare node: standing still, or what a smaller job is slower; 0 in the closed form."""

    def parts(self) -> dict[str, Any]:
        """Name (without its unit) -> share, in the order of the fields."""
        return {field.name.removesuffix("_fraction"): getattr(self, field.name) for field in fields(self)}


def goodput(stops: Interruptions, saves: Checkpoints) -> Goodput:
    """The long-run shares of a job that always finds a spare node.

    With rate l, work t and stall d between checkpoints that count w later, a run saves
    exp(-l w) / (exp(l (t + d)) - 1) checkpoints in the mean, lasts 1 / l and is preceded by a restart of
    (E[exp(l R)] - 1) / l, over restarts by hand and others. For w = 0 and one R this is [Daly 2006, A higher order
    estimate of the optimum checkpoint interval, equation 20]; the rest follows in the same way (derived here).
    """
    rate = 1.0 / np.asarray(stops.seconds_between, dtype=float)
    cycle = saves.interval_seconds + saves.stall_seconds
    num_saved = np.exp(-rate * saves.write_seconds) / np.expm1(rate * cycle)
    manual = stops.manual_fraction
    alone, by_hand = np.expm1(rate * stops.restart_seconds), np.expm1(rate * stops.manual_seconds)
    restart = ((1.0 - manual) * alone + manual * by_hand) / rate
    total = 1.0 / rate + restart
    return Goodput(
        useful_fraction=num_saved * saves.interval_seconds / total,
        checkpoint_fraction=num_saved * saves.stall_seconds / total,
        lost_fraction=(1.0 / rate - num_saved * cycle) / total,
        restart_fraction=restart / total,
    )


def best_interval_seconds(stops: Interruptions, stall_seconds: Seconds, write_seconds: Seconds = 0.0) -> Any:
    """The work between checkpoints that makes the useful share largest, not below the time of a write.

    The maximum of `goodput`: t / M = 1 + W(-exp(-d / M - 1)) with Lambert's W, whose first term is Young's
    sqrt(2 d M) [Young 1974, A first order approximation to the optimum checkpoint interval].
    """
    mean = np.asarray(stops.seconds_between, dtype=float)
    best = mean * (1.0 + np.real(lambertw(-np.exp(-stall_seconds / mean - 1.0))))
    return np.maximum(best, np.maximum(write_seconds, np.finfo(float).eps))


def checkpoint_bytes(job: TrainingJob, stack: SoftwareStack) -> float:
    """Bytes of one checkpoint: weights, an fp32 master copy where training has one, and the optimizer's moments.

    [Rajbhandari 2020, arXiv:1910.02054, section 3.1: the states of mixed-precision Adam]
    """
    moments = NUM_MOMENTS[job.optimizer] * DTYPE_BYTES["fp32"]
    low_precision = 0.0 if job.precision == "fp32" or stack.fp32_parameters else DTYPE_BYTES["bf16"]
    return (num_parameters(job.model) + mtp_parameters(job.model)) * (low_precision + DTYPE_BYTES["fp32"] + moments)
