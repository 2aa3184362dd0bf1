"""The score board of kernels and messages as tables for people."""

from rich.console import Console
from rich.table import Table

from meshwise.tables.errors import errors_table, show_skipped
from meshwise.tables.parts import table
from profiles.units import MICRO
from validate.score.kernels import PriceScore


def show_prices(console: Console, board: PriceScore) -> None:
    """Errors of predicted times by group with the datasheet's beside them, and what was skipped."""
    if board.overall.n:
        groups = {"all rows": board.overall, "baseline: datasheet rates": board.baseline}
        for word, found in (
            ("", board.by_op),
            ("accelerator ", board.by_accelerator),
            ("library ", board.by_library),
            ("form ", board.by_form),
            ("source ", board.by_source),
        ):
            groups |= {f"{word}{name}": errors for name, errors in found.items()}
        console.print(errors_table("time, absolute error as a share of the measured time", "rows", groups))
        console.print()
    show_skipped(console, board.skipped)
    if board.rows is not None:
        console.print()
        console.print(_rows(board))


def _rows(board: PriceScore) -> Table:
    made = table(">row", "accelerator", "library", "form", ">measured", ">predicted", ">error")
    for row in board.rows or ():
        error = f"{row['predicted'] / row['measured'] - 1.0:+.1%}"
        labels = (row["accelerator"], row.get("library", ""), row.get("form", ""))
        figures = (_microseconds(row["measured"]), _microseconds(row["predicted"]))
        made.add_row(str(row["id"]), *labels, *figures, error)
    return made


def _microseconds(seconds: float) -> str:
    return f"{seconds / MICRO:,.1f} us"
