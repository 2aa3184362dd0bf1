"""Reads a table of measured serving runs: what each row served, on what, how it was split and loaded.

Columns are those of docs/cli.md: aggregated runs (`tp`, `ep`, `concurrency`, ...), or disaggregated ones
(`prefill_tp_size`, `decode_tp_size`, ...). Nothing here looks at what was measured.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.units import MILLI
from validate.columns import Table, read_table
from validate.table import BadTable

_NEEDED = ("model", "gpu", "engine", "isl", "osl")


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One row; "" and None where it says nothing. Seconds are measured."""

    id: str
    source: str
    model: str
    gpu: str
    engine: str
    engine_version: str
    origin: str
    mode: str
    input_tokens: int
    output_tokens: int
    concurrency: int | None
    weight_quant: str
    kv_quant: str
    split: Mapping[str, int]
    """"tp", "pp", "ep", "dp" and "moe_tp" as far as stated."""
    ttft_seconds: float | None
    tpot_seconds: float | None
    e2e_seconds: float | None
    output_tokens_per_second: float | None
    num_gpus: int | None
    batch: int | None
    suspect: bool


def read_rows(path: str | Path) -> tuple[ServedRow, ...]:
    """The rows of a table, in its order; raises BadTable naming the file and what is wrong."""
    table = read_table(path)
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise BadTable(f"{path}: the columns {', '.join(missing)} of a table of serving runs are missing")
    return tuple(_rows(table))


def _rows(table: Table) -> Iterator[ServedRow]:
    for index in range(len(table["model"])):
        cells = {name: _cell(values[index]) for name, values in table.items()}
        yield _row(cells, index)


def _row(cells: Mapping[str, Any], index: int) -> ServedRow:
    def text(name: str) -> str:
        found = cells.get(name)
        return "" if found is None else str(found).strip()

    def whole(name: str) -> int | None:
        found = number(name)
        return None if found is None else round(found)

    def number(name: str, scale: float = 1.0) -> float | None:
        found = cells.get(name)
        if found is None or found == "":
            return None
        value = float(found)
        return value * scale if value > 0.0 else None

    split = {name: value for name in ("tp", "pp", "ep", "dp", "moe_tp") if (value := whole(name)) is not None}
    return ServedRow(
        id=text("id") or f"row {index + 1}", source=text("source"), model=text("model"), gpu=text("gpu"),
        engine=text("engine"), engine_version=text("engine_version"), origin=text("origin"), mode=text("mode"),
        input_tokens=whole("isl") or 0, output_tokens=whole("osl") or 0, concurrency=whole("concurrency"),
        weight_quant=text("weight_quant"), kv_quant=text("kv_quant"), split=split,
        ttft_seconds=number("ttft_ms", MILLI), tpot_seconds=number("tpot_ms", MILLI),
        e2e_seconds=number("e2e_ms", MILLI),
        output_tokens_per_second=number("output_tok_s"), num_gpus=whole("num_gpus"), batch=whole("batch_size"),
        suspect=text("suspect") in ("1", "1.0"),
    )  # fmt: skip


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return str(value)
