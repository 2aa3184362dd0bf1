"""Reads a table of measured training runs: a CSV whose columns are the fields of `Run`."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from profiles.units import KILO, MIB, TERA

MAX_TABLE_BYTES = 256 * int(MIB)
MAX_FIELD_CHARACTERS = 1 << 20
MAX_NUMBER = KILO * TERA
MIN_NUMBER = 1.0 / MAX_NUMBER
"""No column holds a figure outside of these but 0, which says nothing; products and ratios of them stay finite."""
Whole = int | None
Number = float | None
Flag = bool | None


class BadTable(ValueError):
    """A table that cannot be read; the message names the file, the line and the column."""


@dataclass(frozen=True, slots=True)
class Run:
    """One published run. None, 0 and "" mean that the source does not say; units are in the names.

    `ffn_hidden` is the width of one expert where there are experts. `model_tflops_per_gpu` leaves recomputation
    out, `hw_tflops_per_gpu` has it in.
    """

    id: str
    source: str
    model: str
    params_b: Number
    layers: Whole
    hidden: Whole
    ffn_hidden: Whole
    heads: Whole
    kv_heads: Whole
    vocab: Whole
    seq_len: Whole
    num_experts: Whole
    topk: Whole
    accelerator: str
    num_accelerators: Whole
    gpus_per_node: Whole
    interconnect: str
    global_batch_seqs: Whole
    micro_batch_seqs: Whole
    tp: Whole
    sp: Flag
    pp: Whole
    vp: Whole
    cp: Whole
    ep: Whole
    dp: Whole
    zero_stage_or_fsdp: str
    recompute: str
    precision: str
    framework: str
    attention_kernel: str
    other_flags: str
    iteration_time_s: Number
    tokens_per_s_per_gpu: Number
    model_tflops_per_gpu: Number
    hw_tflops_per_gpu: Number
    mfu: Number
    peak_memory_gb: Number
    oom: Flag
    notes: str


COLUMNS = tuple(field.name for field in fields(Run))
NEEDED = ("id", "model", "accelerator", "num_accelerators")
"""Columns without which a row says nothing of a run; others that are left out are empty."""


def read_runs(path: str | Path) -> tuple[Run, ...]:
    """The runs of a table, in its order. Columns may stand in any order, and be left out but for NEEDED;
    unknown ones are refused.

    Raises BadTable with file, line and column when the file is no such table.
    """
    try:
        size = Path(path).stat().st_size
        if not Path(path).is_file():
            raise BadTable(f"{path}: not a regular file; expected a CSV table")
        if size > MAX_TABLE_BYTES:
            raise BadTable(f"{path}: {size:,} bytes, but a table of runs is at most {MAX_TABLE_BYTES:,}")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return tuple(_rows(file, str(path)))
    except OSError as error:
        raise BadTable(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadTable(f"{path}: not UTF-8 text (byte {error.start}); expected a CSV table") from None


def _rows(file: Any, path: str) -> Iterator[Run]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(file, strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            if header is None:
                header = _header(values, path)
            elif values:
                yield _run(header, values, f"{path}: line {reader.line_num}")
    except csv.Error as error:
        raise BadTable(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None
    if header is None:
        raise BadTable(f"{path}: line 1: the table is empty; expected a header with the columns {COLUMNS[0]} ...")


def _header(values: list[str], path: str) -> list[str]:
    names = [value.strip() for value in values]
    missing = [name for name in NEEDED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    repeated = sorted({name for name in names if names.count(name) > 1})
    for fault, found in (("lacks", missing), ("has unknown", unknown), ("repeats", repeated)):
        if found:
            shown = ", ".join(repr(name[:40]) for name in found[:5]) + (" ..." if len(found) > 5 else "")
            raise BadTable(f"{path}: line 1: the header {fault} column {shown}; the columns are those of a run table")
    return names


def _run(header: list[str], values: list[str], where: str) -> Run:
    if len(values) != len(header):
        raise BadTable(f"{where}: {len(values)} fields, but the header has {len(header)} columns")
    parsed = dict(_EMPTY)
    for name, text in zip(header, values, strict=True):
        try:
            parsed[name] = _PARSERS[name](text.strip())
        except ValueError as error:
            raise BadTable(f"{where}, column {name}: {text[:40]!r} {error}") from None
    return Run(**parsed)


def _whole(text: str) -> Whole:
    number = _number(text)
    if number is None:
        return None
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


def _number(text: str) -> Number:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError("must be a finite number, not negative")
    if number and not MIN_NUMBER <= number <= MAX_NUMBER:
        raise ValueError(f"must be 0 or between {MIN_NUMBER:g} and {MAX_NUMBER:g}")
    return number


def _flag(text: str) -> Flag:
    known = {"": None, "true": True, "false": False}
    if text.lower() not in known:
        raise ValueError("must be true, false or empty")
    return known[text.lower()]


_BY_TYPE: dict[Any, Callable[[str], Any]] = {Whole: _whole, Number: _number, Flag: _flag, str: str}
_PARSERS = {field.name: _BY_TYPE[field.type] for field in fields(Run)}
_EMPTY = {name: parse("") for name, parse in _PARSERS.items()}
