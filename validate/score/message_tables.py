"""Turns tables of measured collectives into messages on the clusters that they were measured on.

Rows fall into batches of one accelerator, node, implementation and collective; docs/cli.md lists the columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.collectives import message_seconds
from planner.work.routing import Routing
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.cluster import Cluster, Tier
from profiles.units import GIGA, MICRO
from validate.runs.table import BadTable
from validate.score.columns import Table, numbers, rows
from validate.score.kernel_tables import Skipped

Floats = NDArray[np.float64]

OPS: Mapping[str, str] = {"alltoall": "all_to_all"}
"""Names of collectives that the tables write otherwise."""
_BRIDGED_NODES: Mapping[str, str] = {
    "a40": "a40", "a100_pairwise": "a100-pcie-80gb", "h100_pairwise": "h100-nvl"
}  # fmt: skip
"""Nodes of cards bridged in pairs, whose pairs meet over PCIe."""
_NETWORKS: Mapping[str, str] = {"A3-Mega": "a3-megagpu-8g", "P6-B200": "p6-b200.48xlarge"}
"""What a topology says of its network -> the node of the catalog that has it."""
_UNNAMED_NETWORKS: Mapping[str, tuple[str, float]] = {
    "a40": ("ethernet", 3.125), "a100_pairwise": ("ethernet", 3.125), "a100_sxm": ("ethernet", 12.5),
    "h100_sxm": ("infiniband-ndr", 50.0),
}  # fmt: skip
"""Networks that a table does not name: the slowest usual kind that can carry the rate between two nodes which its notes
give, in GB/s a device (25 Gb/s and 100 Gb/s Ethernet, 400 Gb/s InfiniBand)."""


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """Rows of one collective, one implementation and one cluster."""

    collective: str
    library: str
    accelerator: Accelerator
    cluster: Cluster
    sizes: Floats
    """Ranks of each row's group."""
    strides: Floats
    """Distance between neighbours in a group: beyond 1 where only some devices of a node took part."""
    num_bytes: Floats
    """As nccl-tests counts them."""
    seconds: Floats
    index: NDArray[np.int64]
    """Row numbers in the table, from 0."""
    sources: NDArray[np.str_]
    routing: Routing | None = None
    """Of an exchange between experts: see `planner.work.ops.Message`."""

    @property
    def predicted_seconds(self) -> Floats:
        """The prices of plans."""
        return message_seconds(
            self.collective, self.num_bytes, self.sizes, self.strides, self.cluster, self.library, self.routing
        )


def read_messages(table: Table, skipped: Skipped) -> Iterator[MessageBatch]:
    """The batches of a table of collectives; rows that cannot be modelled are added to `skipped`.

    Raises BadTable when columns are missing, or hold something else than numbers.
    """
    labels = ("gpu", "topology", "op", "impl", "launch", "dtype")
    missing = [name for name in labels if name not in table]
    if missing:
        raise BadTable(f"the columns {', '.join(missing)} of a table of collectives are missing")
    try:
        latencies, _, _, _ = numbers(table, "latency_us", "bytes", "num_gpus", "num_nodes")
        timed = np.isfinite(latencies) & (latencies > 0.0)
        if not timed.all():
            skipped["no latency"] += int(np.sum(~timed))
        names = np.array(["\t".join(map(str, row)) for row in zip(*(table[label] for label in labels), strict=True)])
        for name in np.unique(names[timed]):
            index = np.flatnonzero(timed & (names == name))
            yield from _batches(rows(table, index), index, skipped)
    except ValueError as error:
        raise BadTable(str(error)) from None


def _batches(table: Table, index: NDArray[np.int64], skipped: Skipped) -> Iterator[MessageBatch]:
    """Of rows that agree in all labels, one batch for each number of nodes."""
    num_nodes, num_gpus, num_bytes, latencies = numbers(table, "num_nodes", "num_gpus", "bytes", "latency_us")
    gpu, topology = str(table["gpu"][0]), str(table["topology"][0])
    collective = OPS.get(str(table["op"][0]), str(table["op"][0]))
    reduces = str(table["dtype"][0]) != "int8"
    for count in np.unique(num_nodes):
        chosen = num_nodes == count
        try:
            cluster = _cluster(gpu, topology, int(count), reduces=reduces)
        except ValueError as error:
            skipped[str(error)] += int(chosen.sum())
            continue
        node = cluster.num_devices / count
        stride = np.where(count > 1, np.maximum(node * count / num_gpus[chosen], 1.0), _first_stride(gpu, collective))
        yield MessageBatch(
            collective, library_of(str(table["impl"][0]), str(table["launch"][0])), cluster.accelerator, cluster,
            num_gpus[chosen], stride, num_bytes[chosen], latencies[chosen] * MICRO, index[chosen],
            sources_of(table)[chosen],
        )  # fmt: skip


def library_of(implementation: str, launch: str) -> str:
    """The name of an implementation in calibration records; "" is NCCL in a loop."""
    if implementation.startswith("torch.distributed nccl") and launch.startswith("eager"):
        return "torch"
    if implementation.startswith(("nccl", "torch.distributed nccl")):
        return ""
    name = "trtllm" if implementation.endswith(":TRTLLM") else implementation.partition("_")[0]
    return f"{name}-eager" if launch == "eager" else name


def _first_stride(gpu: str, collective: str) -> float:
    """1; 2 where the two devices of a transfer lie in different pairs, as a rate of PCIe instead of a bridge shows."""
    return 2.0 if gpu == "a40" and collective == "send_recv" else 1.0


def _cluster(gpu: str, topology: str, num_nodes: int, *, reduces: bool) -> Cluster:
    """Whole nodes of the kind measured; switches do not reduce integers. Raises ValueError for what nobody knows."""
    node = next((name for part, name in _NETWORKS.items() if part in topology), None)
    if num_nodes > 1 and node is None and gpu not in _UNNAMED_NETWORKS:
        raise ValueError(f"the network between nodes of {gpu} is not named")
    per_node = 4 if "4 GPU node" in topology else 8
    name = node or _BRIDGED_NODES.get(gpu, gpu)
    inside = catalog.cluster(name, per_node)
    if num_nodes > 1 and node is not None:
        inside = catalog.cluster(node, per_node * num_nodes)
    elif num_nodes > 1:
        inside = joined_nodes(inside, *_UNNAMED_NETWORKS[gpu], num_nodes)
    if reduces:
        return inside
    tiers = tuple(tier.model_copy(update={"in_network_reduction": False}) for tier in inside.tiers)
    return inside.model_copy(update={"tiers": tiers})


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


def sources_of(table: Table) -> NDArray[np.str_]:
    """The source of each row, up to its first colon."""
    if "source" not in table:
        return np.full(len(table["gpu"]), "unstated")
    return np.array([str(source).partition(":")[0] for source in table["source"]])
