"""From flags to weeks of a job: what interrupts it, how it saves its state, and what is left of its speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from meshwise.asking import Asked
from planner.cost.goodput import (
    Checkpoints,
    Goodput,
    Interruptions,
    best_interval_seconds,
    checkpoint_bytes,
    goodput,
)
from profiles import catalog
from profiles.reliability import Reliability
from profiles.units import DAY, GIGA, MINUTE
from simulator.faults import LongRun, Nodes, play_long_run
from simulator.repeat import repeat

DEFAULT_FLEET = "llama3-405b"
"""The largest published job with counted interruptions."""
SPARE_SHARE = 0.05
"""Spare nodes assumed as a share of the job's, the low end of what operators advise (5 to 10 %)."""
DEFAULT_RUNS = 100
LEVEL = 0.8
"""Share of the runs between the two ends of a range."""
MAX_DAYS = 3650
"""The longest run that is played: every interruption of it is drawn one by one."""


@dataclass(frozen=True, slots=True)
class LongRunAnswer:
    """A job over weeks: what was assumed, the closed form, and what the played runs say."""

    horizon_seconds: float
    fleet: Reliability
    stops: Interruptions
    saves: Checkpoints
    nodes: Nodes
    checkpoint_bytes: float
    storage_bytes_per_second: float
    best_interval_seconds: float
    expected: Goodput
    runs: Sequence[LongRun]

    def spread(self, part: str) -> tuple[float, float, float]:
        """(mean, low, high) share of a part over the runs; LEVEL of them lie between low and high."""
        return _spread([run.goodput.parts()[part] for run in self.runs])

    @property
    def interruptions(self) -> tuple[float, float, float]:
        """(mean, low, high) number of interruptions."""
        return _spread([run.num_interruptions for run in self.runs])


def answer(asked: Asked, flags: Mapping[str, Any]) -> LongRunAnswer:
    """Play the long run that the flags describe; raises ValueError for a flag without sense."""
    days = _positive(flags, "days", 0.0)
    if days > MAX_DAYS:
        raise ValueError(f"days: must be at most {MAX_DAYS:,} (ten years), got {days:g}")
    fleet = catalog.reliability(flags.get("fleet") or DEFAULT_FLEET)
    question, plan = asked.question, asked.plan
    num_devices = question.cluster.num_devices
    size = checkpoint_bytes(question.job, question.stack)
    rate = _positive(flags, "storage_gb_per_second", fleet.storage_bytes_per_second_per_device * num_devices / GIGA)
    transfer = size / (rate * GIGA)
    stops = Interruptions(fleet.seconds_between_interruptions(num_devices), fleet.restart_seconds + transfer)
    stall = flags.get("async_stall_seconds")
    if stall is not None and not 0.0 <= stall < np.inf:
        raise ValueError(f"async_stall_seconds: must be at least 0, got {stall:g}")
    at_each, beside = (transfer, 0.0) if stall is None else (stall, transfer)
    best = float(best_interval_seconds(stops, at_each, beside))
    saves = Checkpoints(_positive(flags, "checkpoint_minutes", best / MINUTE) * MINUTE, at_each, beside)
    if beside > saves.interval_seconds + at_each:
        raise ValueError(
            f"checkpoint_minutes: a checkpoint takes {beside / MINUTE:.3g} minutes to write, so the next one cannot "
            f"follow after {saves.interval_seconds / MINUTE:.3g}"
        )
    nodes = _nodes(num_devices, plan.dp, fleet, flags)
    play = partial(play_long_run, days * DAY, stops, saves, nodes)
    runs = repeat(play, flags.get("runs") or DEFAULT_RUNS, flags.get("seed") or 0)
    return LongRunAnswer(
        days * DAY, fleet, stops, saves, nodes, size, rate * GIGA, best, goodput(stops, saves), runs
    )  # fmt: skip


def _nodes(num_devices: int, num_replicas: int, fleet: Reliability, flags: Mapping[str, Any]) -> Nodes:
    num_nodes = -(-num_devices // fleet.devices_per_node)
    spares = flags.get("spares")
    return Nodes(
        num_nodes=num_nodes,
        num_spares=max(1, round(SPARE_SHARE * num_nodes)) if spares is None else spares,
        num_replicas=num_replicas,
        loss_fraction=fleet.node_loss_fraction,
        repair_seconds=fleet.repair_seconds,
        elastic=bool(flags.get("elastic")),
    )


def _positive(flags: Mapping[str, Any], name: str, default: float) -> float:
    value = float(flags.get(name, default))
    if not 0.0 < value < np.inf:
        raise ValueError(f"{name}: must be above 0, got {value:g}")
    return value


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    low, high = np.quantile(values, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(np.mean(values)), float(low), float(high)
