"""Reads a CSV table of measurements into columns."""

import csv
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validate.runs.table import MAX_FIELD_CHARACTERS, MAX_TABLE_BYTES, BadTable

Table = Mapping[str, NDArray[Any]]
"""Column name -> one value a row: floats (empty cells NaN) where every cell is a number, else strings."""


def read_table(path: str | Path) -> Table:
    """The columns of a CSV file, gzipped or not.

    Raises BadTable naming the file (and line) when it cannot be read, is empty, or a row has not as many fields as
    the header.
    """
    text = _text(Path(path))
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    except csv.Error as error:
        raise BadTable(f"{path}: not valid CSV: {error}") from None
    if len(rows) < 2:
        raise BadTable(f"{path}: no rows; expected a header and at least one measurement")
    header, *body = rows
    for line, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise BadTable(f"{path}: line {line}: {len(row)} fields, but the header has {len(header)} columns")
    columns = zip(*body, strict=True)
    return {name.strip(): column(values) for name, values in zip(header, columns, strict=True)}


def rows(table: Table, chosen: NDArray[Any]) -> Table:
    """The rows where `chosen` is true, or of those indices."""
    return {name: values[chosen] for name, values in table.items()}


def numbers(table: Table, *names: str) -> tuple[NDArray[np.float64], ...]:
    """Columns that hold numbers; raises ValueError naming one that does not, or that is missing."""
    return tuple(_floats(table, name) for name in names)


def column(texts: Sequence[str]) -> NDArray[Any]:
    """Floats, empty cells NaN, where every text is a number; else the texts."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts)


def _floats(table: Table, name: str) -> NDArray[np.float64]:
    if name not in table:
        raise ValueError(f"column {name!r} is missing; the table has {', '.join(table)}")
    found = column(list(table[name])) if table[name].dtype.kind != "f" else table[name]
    if found.dtype.kind != "f":
        odd = next(text for text in found if column([text]).dtype.kind != "f")
        raise ValueError(f"column {name}: {str(odd)[:40]!r} is not a number")
    if np.isinf(found).any():
        raise ValueError(f"column {name}: 'inf' is not a finite number")
    return np.asarray(found)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise BadTable(f"{path}: not a regular file; expected a CSV table")
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise BadTable(f"{path}: {path.stat().st_size:,} bytes, but a table is at most {MAX_TABLE_BYTES:,}")
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data = unpacker.decompress(data, MAX_TABLE_BYTES)
            if unpacker.unconsumed_tail:
                raise BadTable(f"{path}: unpacks to more than {MAX_TABLE_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except (OSError, zlib.error) as error:
        raise BadTable(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except UnicodeDecodeError as error:
        raise BadTable(f"{path}: not UTF-8 text (byte {error.start}); expected a CSV table") from None
