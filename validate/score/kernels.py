"""Predicted against measured times of single kernels, by the prices that plans are made of."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.kernels import kernel_seconds
from planner.cost.libraries import library_error_fraction
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.cluster import Cluster
from validate.score.agreement import Errors
from validate.score.columns import read_table
from validate.score.kernel_tables import Batch, Skipped, read_batches
from validate.score.plain_kernels import PLAIN_ERROR_FRACTION, plain_seconds

SCHEMA_VERSION = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Priced:
    """Rows of one kind, measured and predicted in seconds."""

    labels: Mapping[str, str]
    """What they share: "op", "accelerator", "library", "form"."""
    index: NDArray[np.int64]
    """Row numbers in the table, from 0."""
    sources: NDArray[np.str_]
    measured: Floats
    predicted: Floats
    baseline: Floats
    p90_error_fraction: float
    """Error that nine of ten shapes left out of the fit stayed below."""

    @property
    def low(self) -> Floats:
        """Lower end of the interval that 90 % of measurements should lie in."""
        return self.predicted / (1.0 + self.p90_error_fraction)

    @property
    def high(self) -> Floats:
        """Its upper end; ten times the prediction at most."""
        return np.asarray(self.predicted / np.maximum(1.0 - self.p90_error_fraction, 0.1))

    def select(self, chosen: NDArray[np.bool_]) -> "Priced":
        """Some of the rows."""
        columns = ("index", "sources", "measured", "predicted", "baseline")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})


@dataclass(frozen=True, slots=True)
class PriceScore:
    """The score board of a table of kernels or messages."""

    overall: Errors
    by_op: dict[str, Errors]
    by_accelerator: dict[str, Errors]
    by_library: dict[str, Errors]
    by_form: dict[str, Errors]
    by_source: dict[str, Errors]
    baseline: Errors
    """Of datasheet rates alone: the roofline, or a latency and the link's rate."""
    skipped: dict[str, int]
    """Reason -> number of rows."""
    rows: tuple[dict[str, Any], ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The board as plain values, with the keys of `meshwise score --json`."""
        groups = {
            name: {key: errors.as_dict() for key, errors in getattr(self, name).items()}
            for name in ("by_op", "by_accelerator", "by_library", "by_form", "by_source")
        }
        board: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "overall": self.overall.as_dict(),
            **groups,
            "baseline": self.baseline.as_dict(),
            "skipped": self.skipped,
        }
        return board if self.rows is None else board | {"rows": list(self.rows)}


def score_kernels(
    table_path: str | Path, *, rows: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> PriceScore:
    """Price every row of a table of kernels and compare; see docs/cli.md for the tables.

    `on_progress(done, total)` counts rows. Raises BadTable with file and column.
    """
    table = read_table(table_path)
    skipped: Skipped = Counter()
    priced, done, total = [], 0, len(table["gpu"]) if "gpu" in table else 0
    for batch in read_batches(table, skipped):
        try:
            priced.append(_priced(batch))
        except ValueError as error:
            skipped[str(error)] += len(batch.seconds)
        done += len(batch.seconds)
        if on_progress is not None:
            on_progress(done, total)
    return board(priced, dict(skipped.most_common()), rows=rows)


def board(priced: Sequence[Priced], skipped: dict[str, int], *, rows: bool) -> PriceScore:
    """The score board of priced rows."""
    by_label = {name: _by_label(priced, name) for name in ("op", "accelerator", "library", "form")}
    return PriceScore(
        overall=_errors(priced),
        by_op=by_label["op"], by_accelerator=by_label["accelerator"], by_library=by_label["library"],
        by_form=by_label["form"], by_source=_by_source(priced),
        baseline=_baseline(priced),
        skipped=skipped,
        rows=tuple(_rows(priced)) if rows else None,
    )  # fmt: skip


def one_device(accelerator: Accelerator) -> Cluster:
    """A cluster of one accelerator, to price kernels on."""
    return catalog.cluster(accelerator.name, 1)


def _priced(batch: Batch) -> Priced:
    accelerator, cluster, library = batch.accelerator, one_device(batch.accelerator), batch.library
    try:
        predicted = kernel_seconds(batch.op, cluster)
        p90 = library_error_fraction(batch.op, accelerator)  # type: ignore[arg-type]
    except ValueError as error:
        predicted, p90 = plain_seconds(batch.op, cluster, error), PLAIN_ERROR_FRACTION
        library = f"{library}, by the curves of training"
    labels = {"op": batch.kind, "accelerator": accelerator.name, "library": library, "form": batch.form}
    seconds = np.asarray(predicted, dtype=float)
    return Priced(labels, batch.index, batch.sources, batch.seconds, seconds, _roofline(batch), p90)


def _roofline(batch: Batch) -> Floats:
    """The larger of FLOPs and bytes over the datasheet's rates."""
    accelerator = batch.accelerator
    dtype = getattr(batch.op, "dtype", "bf16")
    peak = accelerator.flops_per_second(dtype if dtype in accelerator.peak_flops_per_second else "bf16")
    compute = np.asarray(batch.op.flops, dtype=float) / peak
    return np.asarray(np.maximum(compute, batch.op.num_bytes / accelerator.memory_bytes_per_second))


def _by_label(priced: Sequence[Priced], label: str) -> dict[str, Errors]:
    groups: defaultdict[str, list[Priced]] = defaultdict(list)
    for part in priced:
        groups[part.labels.get(label, "")].append(part)
    return {name: _errors(group) for name, group in sorted(groups.items())}


def _by_source(priced: Sequence[Priced]) -> dict[str, Errors]:
    groups: defaultdict[str, list[Priced]] = defaultdict(list)
    for part in priced:
        for source in np.unique(part.sources):
            groups[str(source)].append(part.select(part.sources == source))
    return {name: _errors(group) for name, group in sorted(groups.items())}


def _errors(priced: Sequence[Priced]) -> Errors:
    if not priced:
        return Errors.of([], [])
    inside = [(part.low <= part.measured) & (part.measured <= part.high) for part in priced]
    predicted, measured = (
        np.concatenate([getattr(part, name) for part in priced]) for name in ("predicted", "measured")
    )
    return Errors.of(predicted, measured, np.concatenate(inside))  # type: ignore[arg-type]


def _baseline(priced: Sequence[Priced]) -> Errors:
    if not priced:
        return Errors.of([], [])
    return Errors.of(_columns(priced, "baseline"), _columns(priced, "measured"))  # type: ignore[arg-type]


def _columns(priced: Sequence[Priced], name: str) -> Floats:
    return np.concatenate([getattr(part, name) for part in priced])


def _rows(priced: Sequence[Priced]) -> list[dict[str, Any]]:
    """One mapping a row, in the table's order; `id` counts rows from 1."""
    found = []
    for part in priced:
        columns = {name: getattr(part, name).tolist() for name in ("measured", "predicted", "low", "high")}
        for place, index in enumerate(part.index.tolist()):
            figures = {name: values[place] for name, values in columns.items()}
            found.append({"id": index + 1, **part.labels, **figures})
    return sorted(found, key=lambda row: row["id"])
