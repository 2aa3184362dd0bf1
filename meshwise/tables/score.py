"""The score board as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from meshwise.tables.parts import share, table
from planner.choose.explain import duration
from validate.agreement import Errors
from validate.score import Score

_COLUMNS = (">runs", ">mean", ">median", ">p90", ">max", ">bias", ">coverage")


def show_score(console: Console, board: Score) -> None:
    """Errors of step time and memory with the baseline beside them, ranking, and what was skipped."""
    if board.overall.n:
        console.print(_errors("step time, absolute error as a share of the measured time", _step_rows(board)))
        console.print()
    if any(errors.n for errors in board.memory.values()):
        console.print(_errors("peak memory, absolute error", board.memory))
        console.print()
    if any(board.oom.values()):
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in board.oom.items())
        console.print(f"out of memory: {counts}")
    if board.ranking.families:
        ranking = board.ranking
        console.print(
            f"ranking of plans: {ranking.families} families, regret mean {share(ranking.regret_mean)} "
            f"max {share(ranking.regret_max)}, Kendall tau {_number(ranking.kendall_tau)}"
        )
    console.print(f"skipped {sum(board.skipped.values())} rows")
    for reason, count in sorted(board.skipped.items(), key=lambda item: -item[1]):
        console.print(f"{count:>6}  {reason}", markup=False)
    if board.rows is not None:
        console.print()
        console.print(_rows(board.rows))


def _step_rows(board: Score) -> dict[str, Errors]:
    constant = board.baseline_utilisation_fraction
    baseline = f"baseline: constant HFU {constant:.1%}" if constant is not None else "baseline"
    return {
        "all runs": board.overall,
        baseline: board.baseline,
        **{f"source {name}": errors for name, errors in board.by_source.items()},
        **{f"accelerator {name}": errors for name, errors in board.by_accelerator.items()},
    }


def _errors(title: str, groups: Mapping[str, Errors]) -> Table:
    made = table("group", *_COLUMNS, title=title)
    for name, errors in groups.items():
        if errors.n:
            figures = (errors.mape, errors.median, errors.p90, errors.max, errors.bias, errors.coverage)
            made.add_row(name, str(errors.n), *map(share, figures))
    return made


def _rows(rows: tuple[dict[str, Any], ...]) -> Table:
    made = table("id", ">measured", ">predicted", ">error", "plan", "stack")
    for row in rows:
        measured, predicted = row["measured"], row["predicted"]
        error = f"{predicted / measured - 1.0:+.1%}" if measured else "-"
        shown = duration(measured) if measured else "-"
        made.add_row(row["id"], shown, duration(predicted), error, row["plan"], row["stack"])
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
