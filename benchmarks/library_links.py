"""Curves of implementations other than NCCL's in a loop, and of links that only they were measured on."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernel_records import AIC, DATE, VIDUR
from benchmarks.surface_fit import fit_physics, folds
from planner.cost.collectives import group_sizes, message_seconds
from profiles.calibration import CollectiveCurve, CollectiveOp, Fit
from profiles.cluster import Cluster
from validate.calibration.fit import COLLECTIVE_PRIORS
from validate.score import columns
from validate.score.columns import Table, read_table
from validate.score.expert_tables import USUAL_CORES, read_exchanges
from validate.score.message_tables import MessageBatch, read_messages

Floats = NDArray[np.float64]
Column = tuple[dict[str, float], Floats, frozenset[str]]
"""Parameters of one group size, the errors of its rows under other sizes, and the machines."""
LEAST_ROWS = 8
NUM_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Rows:
    """Messages of one implementation between the same number of sub-groups of one tier."""

    batch: MessageBatch
    tier: int
    """Index of the outermost tier that they cross, which is fitted; those inside keep their curves."""

    def predict(self, parameters: Mapping[str, float], chosen: Any) -> Floats:
        """Seconds of the chosen rows with these parameters on the outermost tier."""
        batch = self.batch
        columns = (column[chosen] for column in (batch.num_bytes, batch.sizes, batch.strides))
        num_bytes, sizes, strides = columns
        cluster = _with_curve(batch.cluster, self.tier, batch.collective, batch.library, parameters)
        return message_seconds(batch.collective, num_bytes, sizes, strides, cluster, batch.library, batch.routing)


LibraryCurves = dict[str, dict[str, dict[CollectiveOp, CollectiveCurve]]]
"""Link -> library -> collective -> curve."""
MESSAGES = "collectives.csv.gz"
EXCHANGES = ("moe_dispatch_combine_deepep.csv.gz", "moe_alltoall_trtllm.csv.gz")


def message_curves(folder: Path) -> LibraryCurves:
    """Of every implementation beside NCCL in a loop, from the table of collectives in `folder`."""
    batches = read_messages(read_table(folder / MESSAGES), Counter())
    return _curves(batch for batch in batches if batch.library)


def exchange_curves(folder: Path) -> LibraryCurves:
    """Of the exchanges between experts, from the tables of them in `folder`.

    Normal kernels on other than the usual multiprocessors are left out: they test how rates grow with their number.
    """
    tables = (read_table(folder / name) for name in EXCHANGES)
    return _curves(batch for table in tables for batch in read_exchanges(_usual(table), Counter()))


def _usual(table: Table) -> Table:
    if "sms" not in table:
        return table
    (cores,) = columns.numbers(table, "sms")
    return columns.rows(table, np.flatnonzero((table["mode"] != "normal") | (cores == USUAL_CORES)))


def _curves(batches: Iterable[MessageBatch]) -> LibraryCurves:
    """The curve of every library on every link.

    Tiers inside the one fitted are priced with the curves found for them before.
    """
    groups: defaultdict[tuple[str, str, CollectiveOp, int], list[Rows]] = defaultdict(list)
    for rows in _split(batches):
        link = rows.batch.cluster.tiers[rows.tier].link
        joined = int(_joined(rows)[0])
        groups[link, rows.batch.library, rows.batch.collective, joined].append(rows)  # type: ignore[index]
    found: defaultdict[str, dict[str, dict[CollectiveOp, CollectiveCurve]]] = defaultdict(dict)
    columns: defaultdict[tuple[str, str, CollectiveOp], dict[int, Column]]
    columns = defaultdict(dict)
    for (link, library, collective, joined), parts in sorted(groups.items(), key=_outermost):
        merged = [_calibrated(part, found) for part in parts]
        if sum(len(part.batch.seconds) for part in merged) >= LEAST_ROWS:
            machines = frozenset(part.batch.accelerator.name for part in merged)
            columns[link, library, collective][joined] = (*_fit(merged), machines)
            curve = _curve(columns[link, library, collective], library)
            found[link].setdefault(library, {})[collective] = curve
    return dict(found)


def _outermost(group: tuple[tuple[str, str, str, int], list[Rows]]) -> tuple[int, tuple[str, str, str, int]]:
    """What orders fits: those of inner tiers first."""
    key, parts = group
    return max(part.tier for part in parts), key


def _split(batches: Iterable[MessageBatch]) -> list[Rows]:
    """Batches by the tier they cross last and by how many sub-groups they join there."""
    parts = []
    for batch in batches:
        joined = group_sizes(batch.sizes, batch.strides, batch.cluster)
        outermost = (joined > 1.0) * np.arange(1, len(joined) + 1)[:, None]
        tier = outermost.max(axis=0) - 1
        keys = np.stack([tier, np.take_along_axis(joined, tier[None, :], axis=0)[0]], axis=1)
        for key in np.unique(keys, axis=0):
            parts.append(Rows(_rows(batch, (keys == key).all(axis=1)), int(key[0])))
    return parts


def _joined(rows: Rows) -> Floats:
    return group_sizes(rows.batch.sizes, rows.batch.strides, rows.batch.cluster)[rows.tier]


def _rows(batch: MessageBatch, chosen: NDArray[np.bool_]) -> MessageBatch:
    return replace(
        batch, sizes=batch.sizes[chosen], strides=batch.strides[chosen], num_bytes=batch.num_bytes[chosen],
        seconds=batch.seconds[chosen], index=batch.index[chosen], sources=batch.sources[chosen],
    )  # fmt: skip


def _calibrated(rows: Rows, found: Mapping[str, Mapping[str, Any]]) -> Rows:
    """`rows` with the curves found so far on the tiers inside."""
    tiers = tuple(
        tier.model_copy(update={"curves": tier.curves.model_copy(update={"libraries": dict(found.get(tier.link, {}))})})
        for tier in rows.batch.cluster.tiers
    )
    return Rows(replace(rows.batch, cluster=rows.batch.cluster.model_copy(update={"tiers": tiers})), rows.tier)


def _with_curve(
    cluster: Cluster, index: int, collective: str, library: str, parameters: Mapping[str, float]
) -> Cluster:
    """`cluster` whose tier `index` has one curve for every group size."""
    columns: dict[str, Any] = {name: (value,) for name, value in parameters.items()}
    curve = CollectiveCurve.model_construct(num_ranks=(2,), in_network_reduction=False, reduction_gain=(), **columns)
    tier = cluster.tiers[index]
    curves = tier.curves.model_copy(update={"libraries": {library: {collective: curve}}})
    tier = tier.model_copy(update={"curves": curves})
    return cluster.model_copy(update={"tiers": (*cluster.tiers[:index], tier, *cluster.tiers[index + 1 :])})


def _fit(parts: Sequence[Rows]) -> tuple[dict[str, float], Floats]:
    """Parameters fitted on all rows, and each row's error under a fit on other sizes."""
    seconds = np.concatenate([part.batch.seconds for part in parts])
    num_bytes = np.concatenate([part.batch.num_bytes for part in parts])
    edges = np.cumsum([0, *(len(part.batch.seconds) for part in parts)])

    def predict(parameters: Mapping[str, float], chosen: NDArray[np.int64]) -> Floats:
        predicted = np.empty(len(seconds))
        for part, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
            predicted[start:stop] = part.predict(parameters, slice(None))
        return np.asarray(predicted[chosen])

    def fitted(rows: NDArray[np.int64]) -> dict[str, float]:
        return fit_physics(lambda values, chosen: predict(values, rows[chosen]), seconds[rows], COLLECTIVE_PRIORS)

    everything, fold = np.arange(len(seconds)), folds(num_bytes[:, None], NUM_FOLDS)
    errors = np.full(len(seconds), np.nan)
    for left_out in range(NUM_FOLDS):
        seen, unseen = everything[fold != left_out], everything[fold == left_out]
        if len(seen) and len(unseen):
            errors[unseen] = np.abs(predict(fitted(seen), unseen) / seconds[unseen] - 1.0)
    return fitted(everything), errors


def _curve(table: Mapping[int, Column], library: str) -> CollectiveCurve:
    errors = np.concatenate([errors for _, errors, _ in table.values()])
    known = errors[np.isfinite(errors)]
    machines = frozenset[str]().union(*(names for _, _, names in table.values()))
    ranks = sorted(table)

    def column(name: str) -> tuple[float, ...]:
        return tuple(table[joined][0][name] for joined in ranks)

    return CollectiveCurve(
        num_ranks=tuple(ranks), latency_seconds=column("latency_seconds"), bus_fraction=column("bus_fraction"),
        exponent=column("exponent"),
        fit=Fit(
            machine=" and ".join(sorted(machines)), date=DATE,
            num_points=len(errors),
            held_out_median_error_fraction=float(np.median(known)) if len(known) else None,
            held_out_p90_error_fraction=float(np.quantile(known, 0.9)) if len(known) else None,
            source=VIDUR if library == "torch" else AIC,
        ),
    )  # fmt: skip
