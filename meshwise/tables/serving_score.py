"""The score board of serving runs as tables for people."""

from rich.console import Console
from rich.table import Table

from meshwise.tables.errors import errors_table, show_skipped
from meshwise.tables.parts import share, table
from profiles.units import MILLI
from validate.score.serving.ranking import MANY_CHOICES, WELL_RANKED
from validate.score.serving.score import METRICS, ServingScore

_TITLES = {
    "ttft": "time to first token", "tpot": "time per output token", "e2e": "end to end", "throughput": "output tokens/s"
}  # fmt: skip


def show_serving(console: Console, board: ServingScore) -> None:
    """Errors of every figure by group with the roofline's beside them, how choices are ranked, what was skipped."""
    for metric in METRICS:
        if board.overall[metric].n:
            console.print(_errors(board, metric))
            console.print()
    console.print(_ranking(board))
    if board.ranking.over_all.poorly_ranked:
        console.print()
        console.print(_poorly_ranked(board))
    console.print()
    console.print(f"answered {share(board.answered_fraction)} of the rows")
    show_skipped(console, board.skipped)
    if board.rows is not None:
        console.print()
        console.print(_rows(board))


def _errors(board: ServingScore, metric: str) -> Table:
    groups = {"all rows": board.overall[metric], "baseline: roofline, no queue": board.baseline[metric]}
    for word, found in (
        ("", board.by_kind),
        ("engine ", board.by_engine),
        ("accelerator ", board.by_accelerator),
        ("model ", board.by_model),
        ("source ", board.by_source),
    ):
        groups |= {f"{word}{name}": errors[metric] for name, errors in found.items()}
    return errors_table(f"{_TITLES[metric]}, absolute error as a share of the measured figure", "rows", groups)


def _ranking(board: ServingScore) -> Table:
    repeats = board.ranking.repeat_fraction
    title = "output tokens/s a device"
    if repeats is not None:
        title += f"; attainable: exact predictions of runs that repeat within {share(repeats)}"
    made = table("choices", ">groups", ">Spearman", ">attainable", ">median", ">regret", ">worst", title=title)
    for name, one in (
        ("split, precision and load", board.ranking.over_all),
        (f"the same, {MANY_CHOICES} or more", board.ranking.over_many),
        ("split and precision", board.ranking.over_splits),
    ):
        if one.groups:
            ceiling = "-" if one.spearman_ceiling is None else f"{one.spearman_ceiling:.3f}"
            ranks = (f"{one.spearman_mean:.3f}", ceiling, f"{one.spearman_median:.3f}")
            made.add_row(name, str(one.groups), *ranks, share(one.regret_mean), share(one.regret_max))
    return made


_MOST_GROUPS = 12


def _poorly_ranked(board: ServingScore) -> Table:
    """Groups whose order is not well predicted, the worst first."""
    groups = board.ranking.over_all.poorly_ranked
    title = f"groups below a rank correlation of {WELL_RANKED:g}: {len(groups)} of {board.ranking.over_all.groups}"
    made = table("model, device, engine, lengths", ">choices", ">Spearman", ">regret", ">best over worst", title=title)
    for one in groups[:_MOST_GROUPS]:
        spread = share(one.measured_spread_fraction)
        made.add_row(one.group, str(one.choices), f"{one.spearman:.3f}", share(one.regret), spread)
    return made


def _rows(board: ServingScore) -> Table:
    made = table("row", "plan", ">TTFT", ">predicted", ">TPOT", ">predicted")
    for row in board.rows or ():
        cells = []
        for metric in ("ttft", "tpot"):
            found = row.get(metric)
            cells += [_milliseconds(found["measured"]), _milliseconds(found["predicted"])] if found else ["", ""]
        made.add_row(str(row["id"]), str(row["plan"]), *cells)
    return made


def _milliseconds(seconds: float) -> str:
    return f"{seconds / MILLI:,.1f} ms"
