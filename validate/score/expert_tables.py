"""Turns tables of exchanges between experts into messages: DeepEP's dispatch and combine, and TensorRT-LLM's."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from planner.work.blocks.experts import FP8_ROW_BYTES
from planner.work.routing import Routing
from profiles import catalog
from profiles.cluster import Cluster
from profiles.units import MICRO
from validate.runs.table import BadTable
from validate.score.columns import Table, numbers, rows
from validate.score.kernel_tables import Skipped
from validate.score.measured_clusters import joined_nodes
from validate.score.message_tables import MessageBatch, sources_of

Floats = NDArray[np.float64]

USUAL_CORES = 20
"""Multiprocessors that DeepEP takes unless it is told otherwise, on which its curves were measured."""
MOST_NODES = 4
"""DeepEP's tests route a token to at most so many nodes. On 8 of them the ranks of the published runs waited
milliseconds for each other; such rows are left out."""
NODE_DEVICES: Mapping[str, int] = {"gb200": 4, "gb300": 4}
"""Devices of a node, where they are not eight."""
_NETWORK = ("infiniband-ndr", 50.0)
_ROW_BYTES: Mapping[str, float] = {"bfloat16": 2.0, "fp8": FP8_ROW_BYTES, "nvfp4": 0.5 + 1.0 / 16.0}
_DEEPEP = {"dispatch_us": FP8_ROW_BYTES, "combine_us": 2.0}
"""Column -> bytes of an element that travels."""


def is_of_experts(table: Table) -> bool:
    """Whether the columns are those of one of the two tables."""
    return "dispatch_us" in table or "moe_ep_size" in table


def read_exchanges(table: Table, skipped: Skipped) -> Iterator[MessageBatch]:
    """The batches of a table; rows that cannot be modelled are added to `skipped`.

    Raises BadTable when columns are missing, or hold something else than numbers.
    """
    try:
        yield from (_deepep if "dispatch_us" in table else _tensorrt)(table, skipped)
    except (KeyError, ValueError) as error:
        raise BadTable(f"a table of exchanges between experts: {error}") from None


def _deepep(table: Table, skipped: Skipped) -> Iterator[MessageBatch]:
    """Both directions of every row: each token travels in FP8 to its experts, and what they give in 16 bits.

    Normal kernels send a token once to each node; low-latency ones send every copy by itself.
    """
    nodes, choices, cores = numbers(table, "node_num", "topk", "sms")
    is_normal = table["mode"] == "normal"
    is_far = is_normal & (nodes > MOST_NODES)
    if is_far.any():
        skipped[f"more than {MOST_NODES} nodes"] += 2 * int(is_far.sum())
    cores = np.where(is_normal, cores, 0.0)
    kept = np.flatnonzero(~is_far)
    labels = {(str(table["gpu"][row]), int(nodes[row]), int(choices[row]), int(cores[row])) for row in kept}
    for gpu, count, choice, used in sorted(labels):
        same = (nodes == count) & (choices == choice) & (cores == used)
        index = kept[(table["gpu"] == gpu)[kept] & same[kept]]
        routing = Routing(choice, count, min(count, MOST_NODES)) if used else None
        cluster = _nodes(gpu, count)
        if used:
            cluster = _with_cores(cluster, used)
        some = rows(table, index)
        tokens, hidden = numbers(some, "num_tokens_per_rank", "hidden_size")
        for column, width in _DEEPEP.items():
            (latency,) = numbers(some, column)
            yield _batch("deepep" if used else "deepep-ll", cluster, cluster.num_devices,
                         tokens * choice * hidden * width, latency, index, some, routing)  # fmt: skip


def _with_cores(cluster: Cluster, num_cores: int) -> Cluster:
    """`cluster` whose devices give `num_cores` multiprocessors to messages: each moves its share inside."""
    inner, *outer = cluster.tiers
    rate = inner.bytes_per_second * num_cores / USUAL_CORES
    return cluster.model_copy(update={"tiers": (inner.model_copy(update={"bytes_per_second": rate}), *outer)})


def _tensorrt(table: Table, skipped: Skipped) -> Iterator[MessageBatch]:
    """Dispatch and combine of every format; the maps that are made before are no message."""
    ranks, choices, _ = numbers(table, "moe_ep_size", "topk", "latency_us")
    name, form = table["op_name"], table["moe_dtype"]
    for other in ("alltoall_prepare", "alltoall_combine_low_precision"):
        if (name == other).any():
            skipped[f"{other} is no exchange in a format of a step"] += int((name == other).sum())
    for op in ("alltoall_dispatch", "alltoall_combine"):
        for row_format, width in _ROW_BYTES.items():
            chosen = (name == op) & (form == row_format)
            labels = {(str(table["gpu"][row]), int(ranks[row]), int(choices[row])) for row in np.flatnonzero(chosen)}
            for gpu, size, choice in sorted(labels):
                index = np.flatnonzero(chosen & (table["gpu"] == gpu) & (ranks == size) & (choices == choice))
                some = rows(table, index)
                tokens, hidden, latency = numbers(some, "num_tokens", "hidden_size", "latency_us")
                sent = tokens * choice * hidden * (width if op == "alltoall_dispatch" else 2.0)
                yield _batch("trtllm", catalog.cluster(f"{gpu}-nvl72", 72), size, sent, latency, index, some,
                             Routing(choice))  # fmt: skip


def _batch(
    library: str, cluster: Cluster, size: int, num_bytes: Floats, latency_us: Floats, index: NDArray[np.int64],
    table: Table, routing: Routing | None,
) -> MessageBatch:  # fmt: skip
    ones = np.ones(len(index))
    return MessageBatch(
        "all_to_all", library, cluster.accelerator, cluster, size * ones, ones, num_bytes, latency_us * MICRO, index,
        sources_of(table), routing,
    )  # fmt: skip


def _nodes(gpu: str, num_nodes: int) -> Cluster:
    """So many nodes; those of the published runs are joined by InfiniBand."""
    node = catalog.cluster(gpu, NODE_DEVICES.get(gpu, 8))
    return node if num_nodes == 1 else joined_nodes(node, *_NETWORK, num_nodes)
