"""From flags to weeks of a job: what interrupts it, how it saves its state, and what is left of its speed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from meshwise.asking import Asked
from meshwise.draws import mean_error, play_runs
from planner.cost.goodput import (
    Checkpoints,
    Goodput,
    Interruptions,
    best_interval_seconds,
    checkpoint_bytes,
    fleet_interruptions,
    goodput,
)
from profiles import catalog
from profiles.mixed import MixedCluster
from profiles.reliability import Reliability
from profiles.units import DAY, GIGA, MINUTE
from simulator.faults import LongRun, Nodes, PeerCopies, play_long_run

DEFAULT_FLEET = "llama3-405b"
"""The largest published job with counted interruptions."""
SPARE_SHARE = 0.05
"""Spare nodes assumed as a share of the job's, the low end of what operators advise (5 to 10 %)."""
NODES_PER_SWITCH = 4
"""Of eight devices each: a leaf of 64 ports, half of them down."""
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
    copies: PeerCopies | None
    checkpoint_bytes: float
    storage_bytes_per_second: float
    best_interval_seconds: float
    expected: Goodput
    runs: Sequence[LongRun]

    def spread(self, part: str) -> tuple[float, float, float]:
        """(mean, low, high) share of a part over the runs; LEVEL of them lie between low and high."""
        return _spread([run.goodput.parts()[part] for run in self.runs])

    def mean_error(self, part: str) -> float:
        """Half the width of the 95 % confidence interval of the mean share, by Student's t."""
        return mean_error([run.goodput.parts()[part] for run in self.runs])

    @property
    def interruptions(self) -> tuple[float, float, float]:
        """(mean, low, high) number of interruptions."""
        return _spread([run.num_interruptions for run in self.runs])


def answer(
    asked: Asked, flags: Mapping[str, Any], on_progress: Callable[[int, int], None] | None = None
) -> LongRunAnswer:
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
    stops = fleet_interruptions(fleet, fleet.seconds_between_interruptions(num_devices), transfer)
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
    copies = _copies(asked, fleet, size, flags)
    play = partial(play_long_run, days * DAY, stops, saves, nodes, copies=copies)
    what = f"{days} {stops} {saves} {nodes} {copies}"
    runs = play_runs(play, flags, what, asdict, lambda values: LongRun(**values), on_progress)
    return LongRunAnswer(
        days * DAY, fleet, stops, saves, nodes, copies, size, rate * GIGA, best, goodput(stops, saves), runs
    )  # fmt: skip


def _copies(asked: Asked, fleet: Reliability, num_bytes: float, flags: Mapping[str, Any]) -> PeerCopies | None:
    """Copies in the memory of peers, each device's share over the network between nodes."""
    if "peer_minutes" not in flags:
        if "peer_stall_seconds" in flags:
            raise ValueError("peer_stall_seconds: says how copies are made; give --peer-minutes, how often")
        return None
    cluster = asked.question.cluster
    ports = [group.port for group in cluster.groups] if isinstance(cluster, MixedCluster) else [cluster.tiers[-1]]
    rate = min(port.usable_bytes_per_second for port in ports)
    transfer = num_bytes / cluster.num_devices / rate
    interval, stall = _positive(flags, "peer_minutes", 0.0) * MINUTE, flags.get("peer_stall_seconds", 0.0)
    if not 0.0 <= stall < np.inf:
        raise ValueError(f"peer_stall_seconds: must be at least 0, got {stall:g}")
    if transfer > interval + stall:
        raise ValueError(
            f"peer_minutes: a copy takes {transfer:.3g} s over the network, so the next cannot follow after "
            f"{interval:.3g}"
        )
    return PeerCopies(interval, stall, fleet.restart_seconds + transfer)


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
        switch_fraction=_share(flags, "switch_share"),
        nodes_per_switch=min(flags.get("switch_nodes") or NODES_PER_SWITCH, num_nodes),
        switch_repair_seconds=fleet.restart_seconds,
    )


def _share(flags: Mapping[str, Any], name: str) -> float:
    value = float(flags.get(name, 0.0))
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: must be between 0 and 1, got {value:g}")
    return value


def _positive(flags: Mapping[str, Any], name: str, default: float) -> float:
    value = float(flags.get(name, default))
    if not 0.0 < value < np.inf:
        raise ValueError(f"{name}: must be above 0, got {value:g}")
    return value


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    low, high = np.quantile(values, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(np.mean(values)), float(low), float(high)
