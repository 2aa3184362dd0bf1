"""Errors of predictions by group, and what could not be predicted: what every score board shows."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from meshwise.tables.parts import share, table
from validate.score.agreement import Errors


def errors_table(title: str, counted: str, groups: Mapping[str, Errors]) -> Table:
    """A line for each group that holds anything; `counted` is what its number is of."""
    made = table("group", f">{counted}", ">mean", ">median", ">p90", ">max", ">bias", ">coverage", title=title)
    for name, errors in groups.items():
        if errors.n:
            figures = (errors.mape, errors.median, errors.p90, errors.max, errors.bias, errors.coverage)
            made.add_row(name, str(errors.n), *map(share, figures))
    return made


def show_skipped(console: Console, skipped: Mapping[str, int]) -> None:
    """How many rows were skipped, and how many for each reason, the most frequent first."""
    console.print(f"skipped {sum(skipped.values())} rows")
    for reason, count in sorted(skipped.items(), key=lambda item: -item[1]):
        console.print(f"{count:>6}  {reason}", markup=False)
