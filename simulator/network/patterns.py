"""What every message of a step takes of every link while it runs alone: one row a message, one column a link.

An entry is the link's busy time over the message's time alone, from the bytes on the routes and the rates that links
reach. Rows are summed in any mix by `simulator.network.fluid`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from planner.cost.collectives import members_within, message_seconds, reached_fractions
from planner.cost.groups import group_of
from planner.cost.phase import priced_message
from planner.cost.torus import is_torus
from planner.work.actions import SENDS, Kind
from planner.work.ops import Message
from planner.work.program import StepProgram, Work
from profiles.cluster import Cluster
from simulator.network.build import Network
from simulator.network.folding import Folding, group_numbers, joined_ranks
from simulator.network.loads import group_loads, transfer_loads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

AXES_OF = {"tp": ("tp",), "cp": ("cp", "cp_a2a", "cp_ring"), "ep": ("ep", "etp")}
"""Axes of the messages that block compute, by the part of a breakdown they count in."""
Counted = list[tuple[Message, float]]
Key = tuple[str, Kind, int]
"""(part of the breakdown, action, chunk); every dp message of a chunk counts as its reduction."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A message of some simulated ranks together."""

    row: int
    """Of `Patterns.usage`."""
    num_ranks: int
    """Simulated ranks that must have reached it before it starts."""
    scale: float = 1.0
    """Its time alone over its price, which is a mean over the pairs of stages for transfers."""


@dataclass(slots=True)
class Patterns:
    """The rows that were made, and which one each simulated rank uses."""

    of: dict[tuple[Key, int, int], Pattern] = field(default_factory=dict)
    """By key, stage and lane."""
    names: list[str] = field(default_factory=list)
    rows: list[Floats] = field(default_factory=list)

    def usage(self, num_links: int) -> sparse.csr_array:
        """(rows, links)."""
        dense = [sparse.csr_array(row[None]) for row in self.rows]
        return sparse.vstack(dense, format="csr") if dense else sparse.csr_array((0, num_links))


def step_patterns(program: StepProgram, network: Network, cluster: Cluster, folding: Folding) -> Patterns:
    """Rows for every message that `program` sends."""
    return _Maker(program, network, cluster, folding).make()


class _Maker:
    def __init__(self, program: StepProgram, network: Network, cluster: Cluster, folding: Folding) -> None:
        self.program, self.network, self.cluster, self.folding = program, network, cluster, folding
        self.stage_of = {action.chunk: rank for rank, actions in enumerate(program.ranks) for action in actions}
        self.made = Patterns()
        self.loads: dict[tuple[str, str, int, int], Floats] = {}
        self.joined: dict[tuple[str, ...], Ints] = {}
        self.same: dict[tuple[int, str, int], int] = {}
        """Row of a work, part and stage that was met before."""

    def make(self) -> Patterns:
        for (kind, chunk), work in self.program.work.items():
            stage = self.stage_of[chunk]
            if kind in SENDS:
                self._add_transfer(("pp", kind, chunk), stage, work)
            elif kind not in (Kind.REDUCE_GRADIENTS, Kind.GATHER_PARAMETERS):
                for part, axes in AXES_OF.items():
                    found = _messages(((work, 1.0),), axes)
                    self._add_collective((part, kind, chunk), stage, found)
        for chunk, stage in self.stage_of.items():
            self._add_collective(("dp", Kind.REDUCE_GRADIENTS, chunk), stage, self._dp_messages(chunk))
        return self.made

    def _dp_messages(self, chunk: int) -> Counted:
        """All messages of data parallelism of a chunk, whatever actions carry them."""
        work = self.program.work
        kinds: tuple[Kind, ...] = (Kind.REDUCE_GRADIENTS, Kind.GATHER_PARAMETERS)
        found = [(work[kind, chunk], 1.0) for kind in kinds if (kind, chunk) in work]
        if self.program.layers:
            kinds = (*kinds, Kind.GATHER_AGAIN)
            found += [(self.program.layer_work[kind, layer], 1.0) for layer in self.program.layers[chunk]
                      for kind in kinds]  # fmt: skip
        return _messages(found, None)

    def _add_collective(self, key: Key, stage: int, messages: Counted) -> None:
        plan = self.program.plan
        messages = [(op, count) for op, count in messages if int(group_of(op.axis, plan).size) > 1 and count > 0.0]
        seconds = sum(count * float(priced_message(op, plan, self.cluster)) for op, count in messages)
        if seconds <= 0.0:
            return
        axes = tuple(sorted({op.axis for op, _ in messages if op.axis != "pp"}))
        component = self._components(axes)
        for number in range(int(component.max()) + 1):
            lanes = np.flatnonzero(component == number)
            used = np.zeros(len(self.network.links))
            for op, count in messages:
                used += count * float(op.num_bytes) * self._busy(op, stage, axes, number)
            self._append(key, stage, lanes, used / seconds, len(lanes))

    def _add_transfer(self, key: Key, stage: int, work: Work) -> None:
        """A message to the neighbouring stage from every device to the one of equal place."""
        (op, _), *_ = work.ops
        assert isinstance(op, Message)
        following = self.stage_of[key[2] + (1 if key[1] is Kind.SEND_FORWARD else -1)]
        if following == stage:
            return
        price = float(priced_message(op, self.program.plan, self.cluster))
        devices, fractions = self.folding.devices, None
        for lane in range(self.folding.num_lanes):
            rows = self.folding.rows(lane)
            source, target = devices[stage, rows], devices[following, rows]
            seconds, fractions = self._pair(op, source, target)
            if seconds > 0.0 and price > 0.0:
                load = transfer_loads(self.network, source, target) * float(op.num_bytes)
                used = load / self.network.links.bytes_per_second / fractions[self.network.part_of] / seconds
                self._append(key, stage, np.array([lane]), used, 1, seconds / price)

    def _pair(self, op: Message, source: Ints, target: Ints) -> tuple[float, Floats]:
        """(seconds alone over the outermost tier that separates some pair, share of its rate reached in each part)."""
        sizes = [tier.num_devices for tier in self.cluster.tiers]
        apart = max(next(t for t, size in enumerate(sizes) if a // size == b // size)
                    for a, b in zip(source.tolist(), target.tolist(), strict=True))  # fmt: skip
        stride = float(sizes[apart - 1]) if apart else 1.0
        if not apart and is_torus(self.cluster.tiers[0]):
            stride = float(np.clip(np.abs(source - target).max(), 1, sizes[0] // 2))
        members = members_within(2.0, stride, self.cluster)
        fractions = self._by_part(reached_fractions(op.collective, members, self.cluster.tiers))
        return float(message_seconds(op.collective, op.num_bytes, 2.0, stride, self.cluster)), fractions

    def _busy(self, op: Message, stage: int, axes: tuple[str, ...], number: int) -> Floats:
        """Seconds each link is busy for each byte of `op`, run by all groups behind a component of lanes."""
        found = (op.axis, op.collective, stage, number)
        if found not in self.loads:
            plan, folding = self.program.plan, self.folding
            mine = self._components(axes)[folding.lane_of] == number
            devices = folding.devices[stage]
            if op.axis == "pp":
                groups = np.stack([devices[mine], folding.devices[plan.pp - 1 - stage][mine]], axis=1)
            else:
                group, size = group_numbers(plan, op.axis)
                rows = np.flatnonzero(mine)
                groups = devices[rows[np.argsort(group[rows], kind="stable")]].reshape(-1, size)
            size, stride, block, skip = group_of(op.axis, plan)
            members = members_within(size, stride, self.cluster, block, skip)
            fractions = self._by_part(reached_fractions(op.collective, members, self.cluster.tiers, op.routing))
            load = group_loads(self.network, self.cluster, op.collective, groups)
            if op.axis == "pp":  # both stages of a pair send it, each its half
                load *= 0.5
            self.loads[found] = load / self.network.links.bytes_per_second / fractions[self.network.part_of]
        return self.loads[found]

    def _by_part(self, fractions: list[float]) -> Floats:
        return np.array([fractions[part.tiers[-1]] for part in self.network.parts])

    def _components(self, axes: tuple[str, ...]) -> Ints:
        """The component of each lane when groups on `axes` join the lanes they touch."""
        if axes not in self.joined:
            ranks = joined_ranks(self.program.plan, axes, self.folding.lane_of)
            self.joined[axes] = np.array([ranks[self.folding.rows(lane)[0]] for lane in range(self.folding.num_lanes)])
        return self.joined[axes]

    def _append(self, key: Key, stage: int, lanes: Ints, used: Floats, num_ranks: int, scale: float = 1.0) -> None:
        pattern = Pattern(len(self.made.rows), num_ranks, scale)
        self.made.rows.append(used)
        self.made.names.append(key[0])
        for lane in lanes.tolist():
            self.made.of[key, stage, lane] = pattern


def _messages(works: Iterable[tuple[Work, float]], axes: tuple[str, ...] | None) -> Counted:
    """The messages of `works` on `axes` (None: on all), with how often each is sent."""
    return [
        (op, float(times * count))
        for work, times in works
        for op, count in (*work.recomputed, *work.ops)
        if isinstance(op, Message) and (axes is None or op.axis in axes)
    ]


def by_columns(usage: sparse.csr_array) -> tuple[sparse.csr_array, Mapping[int, int]]:
    """`usage` with one column for all links that every row uses alike; and the column of each link in use."""
    signature = np.stack([usage.T @ np.random.default_rng(seed).random(usage.shape[0]) for seed in (0, 1)])
    links = np.flatnonzero(signature[0] > 0.0)
    rounded = np.array([[float(f"{value:.9e}") for value in row] for row in signature[:, links]])
    _, first, column = np.unique(rounded, axis=1, return_index=True, return_inverse=True)
    found = sparse.csr_array(usage.tocsc()[:, links[first]])
    return found, dict(zip(links.tolist(), column.ravel().tolist(), strict=True))
