"""Cells of tables: figures as text, with what they are sorted by and their error bars."""

import math
from collections.abc import Callable

from meshwise.report.document import Cell

Write = Callable[[float], str]
NONE = "-"


def plain(text: object) -> Cell:
    """Text that sorts as it reads; a number that sorts by its size."""
    if isinstance(text, bool) or not isinstance(text, int | float):
        return Cell(str(text))
    return Cell(f"{text:,}", float(text))


def figure(value: float | None, write: Write) -> Cell:
    """A figure, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell(NONE, math.inf)
    return Cell(write(float(value)), float(value))


def predicted(write: Write, value: float | None, low: float, high: float) -> Cell:
    """A figure with its error bar; an end that is not finite reads as a question mark."""
    cell = figure(value, write)
    if cell.text == NONE:
        return cell
    ends = (write(end) if math.isfinite(end) else "?" for end in (low, high))
    return Cell(cell.text, cell.value, *ends)


def percent(fraction: float) -> str:
    """A share in percent, without its sign: the column says the unit."""
    return f"{100.0 * fraction:.1f}"


def signed_percent(fraction: float) -> str:
    """A change in percent."""
    return f"{100.0 * fraction:+.1f}"


def digits(value: float) -> str:
    """Three digits at least, thousands apart: `1,234`, `56.7`, `0.0123`."""
    if value == 0.0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, min(places, 12))}f}"
