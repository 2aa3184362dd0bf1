"""The score board as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from meshwise.tables.errors import errors_table, show_skipped
from meshwise.tables.parts import share, table
from planner.choose.explain import duration
from validate.score.agreement import Errors
from validate.score.training import Score


def show_score(console: Console, board: Score) -> None:
    """Errors of step time and memory with the baseline beside them, ranking, and what was skipped."""
    if board.overall.n:
        console.print(
            errors_table("step time, absolute error as a share of the measured time", "runs", _step_rows(board))
        )
        console.print()
    if any(errors.n for errors in board.memory.values()):
        console.print(errors_table("peak memory, absolute error", "runs", board.memory))
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
    show_skipped(console, board.skipped)
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
