"""The catalog as tables for people: names, one record with its sources, and the report of a check."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from meshwise.inspecting import Report
from meshwise.tables.parts import table
from profiles.record import Sourced


def show_names(console: Console, names: Mapping[str, Sequence[str]]) -> None:
    """Names by kind, in columns."""
    for kind, found in names.items():
        console.print(f"{kind} ({len(found)})", style="bold", markup=False)
        console.print(Columns([Text(name) for name in found], padding=(0, 3), column_first=True))
        console.print()


def show_records(console: Console, records: Mapping[str, Sourced]) -> None:
    """Each record's fields with units, a mark at unverified figures, and its source."""
    for kind, record in records.items():
        made = table("field", "value", title=f"{kind}/{record.name}")
        for field, value in _flat(record.model_dump(mode="json", exclude_none=True)):
            if field not in ("name", "unverified"):
                doubt = " (unverified)" if field.split(".")[0] in record.unverified else ""
                made.add_row(field, Text(f"{value}{doubt}"))
        console.print(made)
        console.print()


def show_check(console: Console, report: Report) -> None:
    """How many records load, and every fault."""
    console.print(f"{report.num_checked} records checked, {len(report.faults)} faulty")
    for fault in report.faults:
        console.print(f"  {fault}", markup=False, soft_wrap=True)


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested tables as (dotted path, text); lists of plain values stay on one line."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{path}.{key}" if path else key)
    elif isinstance(values, list) and any(isinstance(item, dict) for item in values):
        for index, value in enumerate(values):
            yield from _flat(value, f"{path}.{index}")
    elif isinstance(values, list):
        if values:
            yield path, ", ".join(_text(item) for item in values)
    elif values != "":
        yield path, _text(values)


def _text(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
