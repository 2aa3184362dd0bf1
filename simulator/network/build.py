"""A cluster as a network: every tier wired, joined at the devices, with the path of every message.

A message goes over the innermost tier that joins its ends. Where leaves serve rails, it first crosses the scale-up
links of its node to the rail of the receiver, as NCCL's PXN does, if a leaf then joins the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from profiles.cluster import Cluster, Tier, torus_axes
from profiles.fabric import Fabric
from simulator.network import dragonfly, flat, torus, trees  # noqa: F401  (they register their wirings)
from simulator.network.wiring import NO_LINK, WIRINGS, Ints, Level, Links, Order, Wiring, packed

_WIRINGS = {"full-mesh": "full-mesh", "torus": "torus", "ring": "torus", "fat-tree": "fat-tree"}
"""Topology of a tier -> its wiring; any other is a star."""
_OUTER_WEIGHT = 1024
"""A link counts as so many of the tier inside, so that routes stay in the innermost tier that joins their ends."""
PLAIN = Fabric(name="as the tiers say", source="leaves of 32 ports down, as 64-port switches have")


@dataclass(frozen=True, slots=True)
class Part:
    """One tier of the network (or nested tiers of switches): the same wiring for each of its groups of devices."""

    name: str
    wiring: Wiring
    first_switch: int
    first_link: int
    tiers: tuple[int, ...]
    """The cluster's tiers it stands for."""

    @property
    def num_devices(self) -> int:
        """Devices of a group."""
        return self.wiring.num_devices

    def route(self, source: Ints, target: Ints, keys: Ints) -> Ints:
        """Links between devices of the whole network that lie in one group."""
        group = source // self.num_devices
        hops = self.wiring.route(source % self.num_devices, target % self.num_devices, keys)
        return np.where(hops == NO_LINK, NO_LINK, hops + (self.first_link + group * len(self.wiring.links))[:, None])


@dataclass(frozen=True)
class Network:
    """All links of a cluster. Nodes are numbered devices first, then switches; links have names "from:to"."""

    name: str
    num_devices: int
    parts: tuple[Part, ...]
    links: Links
    part_of: Ints
    """The part each link belongs to."""
    switches: tuple[str, ...]
    devices_per_node: int = 1
    has_rails: bool = False
    seed: int = 0
    """Of the hashes by which flows choose among equal paths."""
    failed: frozenset[int] = field(default_factory=frozenset)

    def routes(self, source: Ints, target: Ints) -> Ints:
        """Links that each message from `source` to `target` crosses, in order; shape (pairs, hops), see `Route`.

        The hash of a flow is of its two ends and the seed. Raises ValueError where failed links leave no path.
        """
        keys = (source * self.num_devices + target) * 65_537 + self.seed
        hops = np.full((len(source), 0), NO_LINK)
        left = source != target
        for part in self.parts:
            joins = left & (source // part.num_devices == target // part.num_devices)
            if joins.any():
                rows = np.flatnonzero(joins)
                hops = _placed(hops, rows, self._through(part, source[rows], target[rows], keys[rows]))
                left &= ~joins
        if self.failed:
            blocked = np.isin(hops, list(self.failed)).any(axis=1)
            for row in np.flatnonzero(blocked).tolist():
                hops = _placed(hops, np.array([row]), self._detour(int(source[row]), int(target[row]))[None])
        return hops

    def _through(self, part: Part, source: Ints, target: Ints, keys: Ints) -> Ints:
        """Routes within one group of `part`, over the scale-up links to the receiver's rail where that is shorter."""
        if not (self.has_rails and part is self.parts[-1]):
            return part.route(source, target, keys)
        per_node = self.devices_per_node
        relay = source // per_node * per_node + target % per_node
        hops = part.route(relay, target, keys)
        relays = (relay != source) & ((hops != NO_LINK).sum(axis=1) == 2)
        first = self.parts[0].route(source, np.where(relays, relay, source), keys)
        direct = part.route(source, target, keys)
        first = np.where(relays[:, None], first, NO_LINK)
        return packed(np.concatenate([first, np.where(relays[:, None], hops, direct)], axis=1))

    def _detour(self, source: int, target: int) -> Ints:
        """The shortest path over the links that still work."""
        try:
            nodes = nx.bidirectional_dijkstra(self.graph, source, target, weight="weight")[1]
        except nx.NetworkXNoPath:
            raise ValueError(
                f"failed_link: no path is left from {self.node_name(source)} to {self.node_name(target)}"
            ) from None
        edges = (self.graph.edges[pair] for pair in pairwise(nodes))
        return np.array([edge["link"] for edge in edges], dtype=np.int64)

    @cached_property
    def graph(self) -> Any:
        """The working links as a networkx DiGraph: capacity in bytes per second, latency in seconds, weight of routes.

        Parallel links between two switches are nodes' planes, so that no two links join the same pair.
        """
        graph = nx.DiGraph(name=self.name)
        graph.add_nodes_from(range(self.num_devices), kind="device")
        graph.add_nodes_from(range(self.num_devices, self.num_devices + len(self.switches)), kind="switch")
        links, weights = self.links, _OUTER_WEIGHT ** self.part_of.astype(float)
        columns = (links.source, links.target, links.bytes_per_second, links.latency_seconds, weights)
        for index, (source, target, rate, latency, weight) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            if index not in self.failed:
                graph.add_edge(source, target, link=index, capacity=rate, latency=latency, weight=weight)
        return graph

    def node_name(self, node: int) -> str:
        """ "rank17" or the name of a switch, as "infiniband-leaf3"."""
        return f"rank{node}" if node < self.num_devices else self.switches[node - self.num_devices]

    def link_name(self, link: int) -> str:
        """ "from:to"."""
        return f"{self.node_name(int(self.links.source[link]))}:{self.node_name(int(self.links.target[link]))}"

    def link(self, name: str) -> tuple[int, ...]:
        """The links called `name`: "from:to", or "a=b" for both ways.

        Raises ValueError with names that exist.
        """
        number = {self.node_name(node): node for node in range(self.num_devices + len(self.switches))}
        ends = name.replace("=", ":").split(":")
        if len(ends) != 2 or any(end not in number for end in ends):
            raise ValueError(f"link {name}: write FROM:TO (one way) or A=B (both), as {self._example()}")
        first, second = (number[end] for end in ends)
        wanted = [(first, second)] + ([(second, first)] if "=" in name else [])
        rows = [np.flatnonzero((self.links.source == a) & (self.links.target == b)) for a, b in wanted]
        if any(len(row) == 0 for row in rows):
            neighbours = self.links.target[self.links.source == first][:4].tolist()
            raise ValueError(
                f"link {name}: {ends[0]} has no such link; it has links to {', '.join(map(self.node_name, neighbours))}"
            )
        return tuple(int(link) for row in rows for link in row)

    def _example(self) -> str:
        return " or ".join(self.link_name(part.first_link).replace(":", "=") for part in self.parts)

    def slowed(self, links: Sequence[int], fraction: float) -> "Network":
        """The same with `links` at a fraction of their rates. Raises ValueError unless it lies between 0 and 1."""
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"slow_link: a link keeps a fraction above 0 and at most 1 of its rate, got {fraction:g}")
        rates = self.links.bytes_per_second.copy()
        rates[list(links)] *= fraction
        return replace(self, links=replace(self.links, bytes_per_second=rates))

    def without(self, links: Sequence[int]) -> "Network":
        """The same after `links` failed: their flows take the shortest path that is left."""
        return replace(self, failed=self.failed | set(links))


def build_network(cluster: Cluster, fabric: Fabric | None = None, *, seed: int = 0) -> Network:
    """The links of `cluster`; `fabric` says how its network tiers are wired, else they are fat trees.

    Raises ValueError for a fabric of a cluster without a network, or one that its devices do not fill.
    """
    joined = _nested(cluster.tiers)
    if fabric is not None and cluster.tiers[joined[-1][0]].link_class != "network":
        raise ValueError(f"fabric: {fabric.name} wires nodes, but {cluster.num_devices} devices need no network")
    parts: list[Part] = []
    links: list[Links] = []
    switches: list[str] = []
    num_links = 0
    for tiers in joined:
        order, kind = _order(cluster, tiers, fabric or PLAIN)
        made = WIRINGS[kind](order)
        num_groups = cluster.num_devices // made.num_devices
        first_switch = cluster.num_devices + len(switches)
        parts.append(Part(order.name, made, first_switch, num_links, tiers))
        links.append(_repeated(made, num_groups, first_switch))
        num_links += len(links[-1])
        switches += _switch_names(made, num_groups)
    return Network(
        name=cluster.name, num_devices=cluster.num_devices, parts=tuple(parts), links=Links.joined(links),
        part_of=np.repeat(np.arange(len(parts)), [len(each) for each in links]), switches=tuple(switches),
        devices_per_node=cluster.devices_per_node, seed=seed,
        has_rails=bool(fabric and fabric.wiring == "rail-optimised" and len(parts) > 1),
    )  # fmt: skip


def step_latency_seconds(tier: Tier) -> float:
    """What one more step of a ring over this tier takes: the slope of its measured latencies by ranks.

    Between nodes, whose curves are of trees, and where only pairs were measured: the latency of a pair.
    """
    curve = tier.curves.curve("all_gather")
    ranks, seconds = curve.num_ranks, curve.latency_seconds
    if tier.link_class == "network" or len(ranks) == 1 or seconds[-1] <= seconds[0]:
        return seconds[0] + tier.latency_seconds
    return (seconds[-1] - seconds[0]) / (ranks[-1] - ranks[0]) + tier.latency_seconds


def _nested(tiers: Sequence[Tier]) -> list[tuple[int, ...]]:
    """Tiers by the part that wires them: network tiers share the ports of the innermost of them."""
    found: list[tuple[int, ...]] = []
    for index, tier in enumerate(tiers):
        shares = found and tier.link_class == tiers[found[-1][-1]].link_class == "network"
        if shares and tiers[found[-1][0]].topology == "fat-tree":
            found[-1] = (*found[-1], index)
        else:
            found.append((index,))
    return found


def _order(cluster: Cluster, tiers: tuple[int, ...], fabric: Fabric) -> tuple[Order, str]:
    """What a part is built from, and the name of its wiring."""
    inner, outer = cluster.tiers[tiers[0]], cluster.tiers[tiers[-1]]
    name = _WIRINGS.get(inner.topology, "star")
    order = Order(
        name=inner.name, num_devices=outer.num_devices, bytes_per_second=inner.bytes_per_second,
        latency_seconds=_hop_seconds(inner), devices_per_node=cluster.devices_per_node, fabric=fabric,
    )  # fmt: skip
    if name == "torus":
        axes = torus_axes(inner.num_devices, inner.num_dimensions or 1)
        wrap = inner.wrap_length or 1
        return replace(order, axes=axes, wraps=tuple(size % wrap == 0 for size in axes)), name
    if inner.link_class != "network":
        return replace(order, bytes_per_second=inner.usable_bytes_per_second), name
    if fabric.wiring == "dragonfly":
        return order, fabric.wiring
    levels = _levels([cluster.tiers[tier] for tier in tiers], fabric, cluster.devices_per_node)
    return replace(order, levels=levels), fabric.wiring if name == "fat-tree" else name


def _levels(tiers: Sequence[Tier], fabric: Fabric, per_node: int) -> tuple[Level, ...]:
    """Leaves, then a level for each tier: its links carry its rate over its oversubscription for every device below.

    Where tiers nest, the innermost holds whole leaves.
    """
    port, inner = tiers[0].bytes_per_second, tiers[0].num_devices
    rails = per_node if fabric.wiring == "rail-optimised" else 1
    leaf = min(fabric.devices_per_leaf, max(inner // rails, 1))
    while len(tiers) > 1 and inner % (leaf * rails):
        leaf -= 1
    tops = [
        Level(f"{tier.name}-spine", tier.num_devices, port / tier.usable_bytes_per_second, _hop_seconds(tier))
        for tier in tiers
        if tier.num_devices > leaf
    ]
    return (Level(f"{tiers[0].name}-leaf", leaf), *tops)


def _hop_seconds(tier: Tier) -> float:
    """Of one of the two links that a step between neighbours crosses."""
    return step_latency_seconds(tier) / 2.0


def _repeated(made: Wiring, num_groups: int, first_switch: int) -> Links:
    """The links of a wiring for every group of devices, in the numbers of the whole network."""
    group = np.repeat(np.arange(num_groups), len(made.links))

    def numbered(nodes: Ints) -> Ints:
        every = np.tile(nodes, num_groups)
        switch = first_switch + group * len(made.switches) + every - made.num_devices
        return np.where(every < made.num_devices, group * made.num_devices + every, switch)

    links = made.links
    return Links(
        numbered(links.source), numbered(links.target), np.tile(links.bytes_per_second, num_groups),
        np.tile(links.latency_seconds, num_groups),
    )  # fmt: skip


def _switch_names(made: Wiring, num_groups: int) -> list[str]:
    if num_groups == 1:
        return list(made.switches)
    return [f"{name}{group}" if len(made.switches) == 1 else f"{name}@{group}"
            for group in range(num_groups) for name in made.switches]  # fmt: skip


def _placed(hops: Ints, rows: Ints, found: Ints) -> Ints:
    """`hops` with the routes `found` in `rows`, wider where they need it."""
    width = max(hops.shape[1], found.shape[1])
    made = np.full((len(hops), width), NO_LINK)
    made[:, : hops.shape[1]] = hops
    made[rows] = NO_LINK
    made[rows, : found.shape[1]] = found
    return made
