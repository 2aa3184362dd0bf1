"""Predicted against measured times of collectives, by the prices that plans are made of."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from planner.cost.collectives import COLLECTIVES, group_sizes
from simulator.network.alone import seconds_per_byte
from simulator.network.build import build_network
from validate.runs.table import BadTable
from validate.score.columns import read_table
from validate.score.expert_tables import is_of_experts, read_exchanges
from validate.score.kernel_tables import Skipped
from validate.score.kernels import Floats, Priced, PriceScore, board
from validate.score.message_tables import MessageBatch, read_messages


def score_collectives(
    table_path: str | Path, *, rows: bool = False, flows: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> PriceScore:  # fmt: skip
    """Price every row of a table of collectives and compare; see docs/cli.md for its columns.

    With `flows` no collective is faster than the links on its own routes allow (`simulator.network`).
    `on_progress(done, total)` counts rows. Raises BadTable with file and column.
    """
    table = read_table(table_path)
    skipped: Skipped = Counter()
    priced, done, total = [], 0, len(next(iter(table.values())))
    if flows and is_of_experts(table):
        raise BadTable(
            "fidelity: flows play plain collectives, but this table holds exchanges of experts; leave it out"
        )
    read = read_exchanges if is_of_experts(table) else read_messages
    for batch in read(table, skipped):
        priced.append(_priced(batch, flows=flows))
        done += len(batch.seconds)
        if on_progress is not None:
            on_progress(done, total)
    return board(priced, dict(skipped.most_common()), rows=rows)


def _priced(batch: MessageBatch, *, flows: bool) -> Priced:
    labels = {
        "op": batch.collective, "accelerator": batch.accelerator.name, "library": batch.library or "nccl",
        "form": " + ".join(tier.link for tier in batch.cluster.tiers),
    }  # fmt: skip
    predicted, baseline = batch.predicted_seconds, _datasheet_seconds(batch)
    if flows:
        predicted = np.maximum(predicted, _link_seconds(batch))
    return Priced(labels, batch.index, batch.sources, batch.seconds, predicted, baseline, _p90_error(batch))


def _link_seconds(batch: MessageBatch) -> Floats:
    """Seconds that the busiest link of the network is busy."""
    network = build_network(batch.cluster)
    groups, place = np.unique(np.stack([batch.sizes, batch.strides]), axis=1, return_inverse=True)
    each = [
        seconds_per_byte(batch.collective, int(size), int(stride), batch.cluster, network, batch.library)
        for size, stride in groups.T.tolist()
    ]
    return np.array(each)[place.ravel()] * batch.num_bytes


def _p90_error(batch: MessageBatch) -> float:
    """The largest of the curves of the tiers crossed; of one without an error its NCCL all-reduce's."""
    joined = group_sizes(batch.sizes, batch.strides, batch.cluster)
    errors = [0.0]
    for tier, groups in zip(batch.cluster.tiers, joined, strict=True):
        if (groups > 1.0).any():
            own = tier.curves.curve(batch.collective, batch.library).fit.held_out_p90_error_fraction
            errors.append(own or tier.curves.curve("all_reduce").fit.held_out_p90_error_fraction or 0.0)
    return max(errors)


def _datasheet_seconds(batch: MessageBatch) -> Floats:
    """Wire bytes over the rate of the slowest tier of the datasheet, without any latency."""
    pattern = COLLECTIVES[batch.collective]
    joined = group_sizes(batch.sizes, batch.strides, batch.cluster)
    inner, slowest = np.ones_like(batch.sizes), np.zeros_like(batch.sizes)
    for tier, members in zip(batch.cluster.tiers, joined, strict=True):
        wire = np.where(members > 1.0, pattern.wire_bytes(batch.num_bytes, batch.sizes, inner), 0.0)
        if batch.routing is not None:
            wire = wire * batch.routing.ports_reached(batch.sizes / inner) / batch.routing.num_choices
        slowest = np.maximum(slowest, wire / tier.usable_bytes_per_second)
        inner = inner * members
    return slowest
