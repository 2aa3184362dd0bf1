"""The cluster that a row of a table of collectives was measured on: from its accelerator, topology and nodes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from profiles import catalog
from profiles.cluster import Cluster, Tier
from profiles.units import GIGA
from validate.runs.clusters import cluster_of

_BRIDGED_NODES: Mapping[str, str] = {
    "a40": "a40", "a100_pairwise": "a100-pcie-80gb", "h100_pairwise": "h100-nvl"
}  # fmt: skip
"""Nodes of cards bridged in pairs, whose pairs meet over PCIe."""
_USUAL_NODE = 8
"""Devices of a node of which a table says nothing."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """How a node reaches a network: `num_per_node` adapters, which its devices share where they are more."""

    link: str
    gb_per_second: float
    """Of one adapter, one direction."""
    num_per_node: int

    def gb_per_second_of(self, num_devices: int) -> float:
        """Of each of `num_devices` devices of a node that talk at the same time."""
        return self.gb_per_second * min(self.num_per_node / num_devices, 1.0)


_UNNAMED_NETWORKS: Mapping[str, Adapters] = {
    "a40": Adapters("ethernet", 3.125, 8), "a100_pairwise": Adapters("ethernet", 3.125, 4),
    "a100_sxm": Adapters("ethernet", 12.5, 4), "h100_sxm": Adapters("infiniband-ndr", 50.0, 8),
}  # fmt: skip
"""Networks that a table does not name: the slowest usual kind that can carry the rate between two nodes which its notes
give (25 Gb/s and 100 Gb/s Ethernet, 400 Gb/s InfiniBand). Nodes of A100 with 100 Gb/s adapters have four of them. Other
devices are taken to be on the network of their usual node."""


def measured_cluster(gpu: str, topology: str, num_nodes: int, num_used: int, *, reduces: bool) -> Cluster:
    """Whole nodes of the kind measured, of which `num_used` devices each took part; switches do not reduce integers.

    A topology ends in "+ inter-node" and the network, by a node ("GCP A3-Mega"), a link or a rate ("RoCE 8x400Gb/s").
    Raises ValueError for devices and sizes that nobody knows.
    """
    cluster = _cluster(gpu, topology, num_nodes, num_used)
    if reduces:
        return cluster
    tiers = tuple(tier.model_copy(update={"in_network_reduction": False}) for tier in cluster.tiers)
    return cluster.model_copy(update={"tiers": tiers})


def _cluster(gpu: str, topology: str, num_nodes: int, num_used: int) -> Cluster:
    stated = re.search(r"(\d+) GPU node", topology)
    per_node = int(stated.group(1)) if stated else None
    name = _BRIDGED_NODES.get(gpu, gpu)
    if num_nodes == 1:
        return catalog.cluster(name, max(per_node or _USUAL_NODE, num_used))
    network = topology.rpartition("+")[2].removeprefix(" inter-node").strip() if "+" in topology else ""
    if network in ("", "network") and gpu in _UNNAMED_NETWORKS:
        adapters = _UNNAMED_NETWORKS[gpu]
        inside = catalog.cluster(name, per_node or _USUAL_NODE)
        return joined_nodes(inside, adapters.link, adapters.gb_per_second_of(num_used), num_nodes)
    return cluster_of(name, (per_node or catalog.node(name).num_devices) * num_nodes, per_node, network)


def joined_nodes(node: Cluster, link: str, gb_per_second: float, num_nodes: int) -> Cluster:
    """`num_nodes` nodes over a network of `link`."""
    kind = catalog.link(link)
    num_devices = node.num_devices * num_nodes
    network = Tier(
        name="network", link=kind.name, link_class=kind.link_class, topology="fat-tree", num_devices=num_devices,
        bytes_per_second=gb_per_second * GIGA, latency_seconds=kind.latency_seconds,
        curves=catalog.link_curves(kind.name, kind.link_class),
    )  # fmt: skip
    return node.model_copy(update={"tiers": (*node.tiers, network), "num_devices": num_devices})
