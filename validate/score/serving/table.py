"""Reads a table of measured serving runs: what each row served, on what, how it was split and loaded.

Columns are those of docs/cli.md: aggregated runs (`tp`, `ep`, `concurrency`, ...), or disaggregated ones
(`prefill_tp_size`, `decode_tp_size`, ...). Nothing here looks at what was measured.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.units import MILLI
from validate.runs.table import MAX_NUMBER, MIN_NUMBER, BadTable
from validate.score.columns import Table, read_table

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
    prefill_split: Mapping[str, int] | None = None
    """Of a pool that runs prompts alone; None: one pool does everything."""
    num_prefill_workers: int | None = None
    num_decode_workers: int | None = None
    """Replicas of each pool of a disaggregated run."""
    decode_slots: int | None = None
    """Requests that a replica of the pool that decodes takes at the same time."""
    draft_tokens: int | None = None
    """Tokens guessed ahead by heads of the model's own; None: not stated."""
    has_attention_dp: bool = False
    """The notes of the row say that attention was data parallel, where its degrees do not."""
    drafts_open: bool = False
    """Recipes with and without guessed tokens both fit it."""
    token_budget: int | None = None
    """Tokens of one iteration at most, of each group of attention data parallelism."""
    image_tag: str = ""
    """Of the container that ran, where the notes of the row name it last."""
    day: str = ""
    """On which it was measured, where the notes say "measured=2026-03-18"."""
    file_day: str = ""
    """Of the file of latest results from which it was taken, where the notes say "source_file=2026-03-25.csv"."""


def read_rows(path: str | Path) -> tuple[ServedRow, ...]:
    """The rows of a table, in its order; raises BadTable naming the file and what is wrong."""
    table = _plain_names(read_table(path))
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise BadTable(f"{path}: the columns {', '.join(missing)} of a table of serving runs are missing")
    return tuple(_rows(table, str(path)))


_DISAGGREGATED = {
    "model_path": "model", "system": "gpu", "backend": "engine", "backend_version": "engine_version",
    "precision": "weight_quant", "decode_tp_size": "tp", "decode_pp_size": "pp", "decode_attention_dp_size": "dp",
    "decode_moe_tp_size": "moe_tp", "decode_moe_ep_size": "ep", "silicon_ttft_ms": "ttft_ms",
    "silicon_tpot_ms": "tpot_ms",
}  # fmt: skip
"""Columns of tables of disaggregated runs -> what aggregated ones call them."""
_PREFILL = {"tp": "prefill_tp_size", "pp": "prefill_pp_size", "dp": "prefill_attention_dp_size",
            "moe_tp": "prefill_moe_tp_size", "ep": "prefill_moe_ep_size"}  # fmt: skip


def _plain_names(table: Table) -> Table:
    if _PREFILL["tp"] not in table:
        return table
    return {_DISAGGREGATED.get(name, name): values for name, values in table.items()}


def _rows(table: Table, path: str) -> Iterator[ServedRow]:
    for index in range(len(table["model"])):
        cells = {name: _cell(values[index]) for name, values in table.items()}
        try:
            yield _row(cells, index)
        except ValueError as error:
            raise BadTable(f"{path}: line {index + 2}: {error}") from None


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
        try:
            value = float(found)
        except ValueError:
            raise ValueError(f"column {name}: {str(found)[:40]!r} is not a number") from None
        if value > MAX_NUMBER:
            raise ValueError(f"column {name}: {value:g} is more than {MAX_NUMBER:g}")
        return value * scale if value >= MIN_NUMBER else None

    split = {name: value for name in ("tp", "pp", "ep", "dp", "moe_tp") if (value := whole(name)) is not None}
    prompts = {name: value for name, column in _PREFILL.items() if (value := whole(column)) is not None}
    return ServedRow(
        id=text("id") or f"row {index + 1}", source=text("source"), model=text("model"), gpu=text("gpu"),
        engine=text("engine"), engine_version=text("engine_version"), origin=text("origin"), mode=text("mode"),
        input_tokens=whole("isl") or 0, output_tokens=whole("osl") or 0, concurrency=whole("concurrency"),
        weight_quant=text("weight_quant"), kv_quant=text("kv_quant"), split=split,
        ttft_seconds=number("ttft_ms", MILLI), tpot_seconds=number("tpot_ms", MILLI),
        e2e_seconds=number("e2e_ms", MILLI),
        output_tokens_per_second=number("output_tok_s"), num_gpus=whole("num_gpus"), batch=whole("batch_size"),
        suspect=text("suspect") in ("1", "1.0"), prefill_split=prompts or None,
        num_prefill_workers=whole("prefill_num_workers"), num_decode_workers=whole("decode_num_workers"),
        decode_slots=whole("decode_max_batch_size"), draft_tokens=_or_none(cells.get("draft_tokens")),
        has_attention_dp="attention-dp" in text("notes").casefold(),
        token_budget=whole("token_budget"),
        image_tag=_image_tag(text("notes") or text("silicon_data_source")),
        day=_day(text("notes") or text("silicon_data_source")), file_day=_day(text("notes"), "source_file"),
    )  # fmt: skip


def _day(notes: str, name: str = "measured") -> str:
    found = re.search(rf"\b{name}=(\d{{4}}-\d\d-\d\d)", notes)
    return found[1] if found else ""


def _image_tag(notes: str) -> str:
    """ "0.8.1" of notes that end in "... name/of/image:v0.8.1"; "": they do not."""
    found = re.search(r"[\w/.-]+:v?([\w.-]+)$", notes)
    return found[1] if found else ""


def _or_none(found: Any) -> int | None:
    """A count that may be zero."""
    return None if found in (None, "") else int(float(found))


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return str(value)
