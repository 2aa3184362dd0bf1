"""The score board of kernels and messages as tables for people."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from meshwise.tables.parts import share, table
from profiles.units import MICRO
from validate.agreement import Errors
from validate.score_kernels import PriceScore

_COLUMNS = (">rows", ">mean", ">median", ">p90", ">max", ">bias", ">coverage")


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
        console.print(_errors("time, absolute error as a share of the measured time", groups))
        console.print()
    console.print(f"skipped {sum(board.skipped.values())} rows")
    for reason, count in sorted(board.skipped.items(), key=lambda item: -item[1]):
        console.print(f"{count:>6}  {reason}", markup=False)
    if board.rows is not None:
        console.print()
        console.print(_rows(board))


def _errors(title: str, groups: Mapping[str, Errors]) -> Table:
    made = table("group", *_COLUMNS, title=title)
    for name, errors in groups.items():
        figures = (errors.mape, errors.median, errors.p90, errors.max, errors.bias, errors.coverage)
        made.add_row(name, str(errors.n), *map(share, figures))
    return made


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
