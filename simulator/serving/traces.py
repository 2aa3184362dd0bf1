"""Request traces as they are published: CSV of arrivals and lengths in several layouts, and Mooncake's JSON lines.

Times are shifted to begin at 0; rows are put in order of arrival.
"""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from profiles.units import MILLI
from simulator.serving.requests import Prefixes, Requests

COLUMNS = (
    ("arrival_s", "arrival_seconds", "arrived_at", "TIMESTAMP", "Timestamp"),
    ("input_tokens", "input_length", "num_prefill_tokens", "ContextTokens", "Request tokens"),
    ("output_tokens", "output_length", "num_decode_tokens", "GeneratedTokens", "Response tokens"),
)
"""Names of the columns of arrival, input and output: ours, Vidur's, those of Azure's traces, and of BurstGPT."""
MOONCAKE_BLOCK_TOKENS = 512
"""Prompt tokens that one entry of `hash_ids` stands for [Qin 2024, Mooncake, arXiv:2407.00079, section 4]."""


def read_trace(path: Path, most: int | None = None) -> Requests:
    """The requests of a `.csv` or `.jsonl` file, plain or ending in `.gz`; the first `most` to arrive, or all.

    A CSV file without times, which lists lengths alone, has all requests at 0; it may have a `tenant` column.
    Requests without an answer (0 output tokens, as failed ones are logged) are left out. Raises ValueError naming the
    file, the line and what is wrong.
    """
    name = path.name.removesuffix(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = list(_mooncake(file, path) if name.endswith(".jsonl") else _table(file, path))
    except (OSError, EOFError, UnicodeDecodeError) as fault:
        raise ValueError(f"trace: cannot read {path}: {fault}") from fault
    if not rows:
        raise ValueError(f"trace: {path} holds no request")
    return _requests(sorted(rows, key=lambda row: row[0])[:most])


Row = tuple[float, int, int, str, list[int]]
"""Arrival seconds, input and output tokens, tenant, names of prompt blocks."""


def _requests(rows: list[Row]) -> Requests:
    arrivals, inputs, outputs, tenants, names = zip(*rows, strict=True)
    known, tenant = np.unique(tenants, return_inverse=True)
    prefixes = None
    if any(names):
        whole = [each[: tokens // MOONCAKE_BLOCK_TOKENS] for each, tokens in zip(names, inputs, strict=True)]
        offsets = np.cumsum([0, *map(len, whole)])
        prefixes = Prefixes(MOONCAKE_BLOCK_TOKENS, offsets, np.array([name for each in whole for name in each]))
    return Requests(
        np.array(arrivals) - arrivals[0], np.array(inputs), np.array(outputs),
        tenant=tenant, tenants=tuple(known.tolist()), prefixes=prefixes,
    )  # fmt: skip


def _table(lines: Iterable[str], path: Path) -> Iterator[Row]:
    reader = csv.DictReader(lines)
    header = reader.fieldnames or []
    arrival = next((name for name in COLUMNS[0] if name in header), None)
    inputs, outputs = (_column(names, header, path) for names in COLUMNS[1:])
    for row in reader:
        place = f"{path}:{reader.line_num}"
        yield from _row(
            row[arrival] if arrival else 0.0, row[inputs], row[outputs], row.get("tenant") or "all", [], place
        )


def _column(names: tuple[str, ...], header: Sequence[str], path: Path) -> str:
    """The one of `names` that the file has."""
    for name in names:
        if name in header:
            return name
    raise ValueError(f"trace: {path} has no column {' or '.join(names)}; it has {', '.join(header)}")


def _mooncake(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            arrival, inputs, outputs = MILLI * float(row["timestamp"]), row["input_length"], row["output_length"]
        except (ValueError, KeyError, TypeError) as fault:
            raise ValueError(
                f"trace: {place} is no request of Mooncake's layout (timestamp, input_length, output_length): {fault}"
            ) from fault
        yield from _row(arrival, inputs, outputs, str(row.get("tenant", "all")), row.get("hash_ids") or [], place)


def _row(arrival: Any, inputs: Any, outputs: Any, tenant: str, names: list[int], place: str) -> Iterator[Row]:
    """One request, unless it has no answer."""
    try:
        row = _seconds(arrival), int(float(inputs)), int(float(outputs)), tenant, names
    except (TypeError, ValueError, OverflowError) as fault:
        raise ValueError(f"trace: {place}: {fault}") from fault
    if row[1] < 1 or row[2] < 0 or not np.isfinite(row[0]):
        raise ValueError(
            f"trace: {place}: arrival {arrival}, {inputs} input and {outputs} output tokens are no request"
        )
    if row[2] > 0:
        yield row


def _seconds(text: Any) -> float:
    """Seconds, or a date and time."""
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(str(text)[:_MICROSECONDS]).replace(tzinfo=UTC).timestamp()


_MICROSECONDS = len("2023-11-16 18:15:46.680590")
"""Azure writes a digit more."""
