"""Turns tables of measured collectives into messages on the clusters that they were measured on.

Rows fall into batches of one accelerator, node, implementation and collective; docs/cli.md lists the columns.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.collectives import COLLECTIVES, message_seconds
from planner.work.routing import Routing
from profiles.accelerator import Accelerator
from profiles.cluster import Cluster
from profiles.units import MICRO
from validate.runs.table import BadTable
from validate.score.columns import Table, numbers, rows
from validate.score.kernel_tables import Skipped
from validate.score.measured_clusters import measured_cluster

Floats = NDArray[np.float64]

OPS: Mapping[str, str] = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter", "alltoall": "all_to_all",
    "sendrecv": "send_recv", "p2p": "send_recv", "broadcast": "broadcast", "reduce": "reduce",
}  # fmt: skip
"""Names of collectives without case, spaces and signs -> ours."""


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
        latencies, num_bytes, num_gpus, num_nodes = numbers(table, "latency_us", "bytes", "num_gpus", "num_nodes")
        timed = np.isfinite(latencies) & (latencies > 0.0)
        if not timed.all():
            skipped["no latency"] += int(np.sum(~timed))
        sent = (num_bytes > 0.0) & (num_nodes >= 1.0) & (num_gpus >= np.maximum(num_nodes, 2.0))
        if not sent[timed].all():
            skipped["no bytes, no nodes, or fewer than two devices"] += int(np.sum(timed & ~sent))
        timed &= sent
        names = np.array(["\t".join(map(str, row)) for row in zip(*(table[label] for label in labels), strict=True)])
        for name in np.unique(names[timed]):
            index = np.flatnonzero(timed & (names == name))
            yield from _batches(rows(table, index), index, skipped)
    except ValueError as error:
        raise BadTable(str(error)) from None


def _batches(table: Table, index: NDArray[np.int64], skipped: Skipped) -> Iterator[MessageBatch]:
    """Of rows that agree in all labels, one batch for each number of nodes and of devices used of a node."""
    num_nodes, num_gpus, num_bytes, latencies = numbers(table, "num_nodes", "num_gpus", "bytes", "latency_us")
    gpu, topology, stated = (str(table[column][0]) for column in ("gpu", "topology", "op"))
    collective = OPS.get(re.sub(r"[^a-z0-9]", "", stated.lower()))
    if collective is None:
        skipped[f"{stated} is none of {', '.join(COLLECTIVES)}"] += len(index)
        return
    reduces = str(table["dtype"][0]) != "int8"
    for count, used in sorted(set(zip(num_nodes.tolist(), np.ceil(num_gpus / num_nodes).tolist(), strict=True))):
        chosen = (num_nodes == count) & (np.ceil(num_gpus / num_nodes) == used)
        try:
            cluster = measured_cluster(gpu, topology, int(count), int(used), reduces=reduces)
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


def sources_of(table: Table) -> NDArray[np.str_]:
    """The source of each row, up to its first colon."""
    if "source" not in table:
        return np.full(len(table["gpu"]), "unstated")
    return np.array([str(source).partition(":")[0] for source in table["source"]])
