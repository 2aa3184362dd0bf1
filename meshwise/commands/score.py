"""`meshwise score`: predictions against published measurements."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwise.options import JsonFlag

if TYPE_CHECKING:
    from validate.score.kernels import PriceScore


class What(StrEnum):
    """Tables that can be scored."""

    TRAINING = "training"
    KERNELS = "kernels"
    COLLECTIVES = "collectives"
    SERVING = "serving"


def score(
    what: Annotated[What, typer.Argument(help="What the table holds.", show_choices=True)],
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv",
            help="Measured runs (columns: docs/cli.md), a shipped table's name, or a log of serving (docs/serving.md).",
        ),
    ],
    *,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="A cluster file of your own, for the runs of a table on its accelerator; or what served a log whose "
            "meta.json names no device: a name or .toml."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Of serving: an engine record, or a file that calibrate wrote, in place of the release's."),
    ] = None,
    fidelity: Annotated[
        str, typer.Option(help="Of collectives: by price, or as flows on the network's links.", metavar="prices|flows")
    ] = "prices",
    rows: Annotated[bool, typer.Option("--rows", help="Show every row.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw predicted against measured steps (.png, .svg, .pdf); runs only.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --plot replace a file.")] = False,
    json: JsonFlag = False,
) -> int:
    """Predict every run (kernel, collective, serving benchmark) of a table and compare, beside a baseline: one
    constant utilisation, or datasheet rates.

    Rows that cannot be modelled are counted by reason.
    Example: meshwise score training published --plot scatter.png
    """
    if plot and what is not What.TRAINING:
        raise ValueError(f"--plot: draws tables of training runs, not of {what.value}; leave it out")
    if fidelity != "prices" and not (what is What.COLLECTIVES and fidelity == "flows"):
        raise ValueError(f"--fidelity: {fidelity} is not one of prices and, for collectives, flows")
    if engine is not None and what is not What.SERVING:
        raise ValueError(f"--engine: {engine} serves requests, and {what.value} has none; leave it out")
    is_log = what is What.SERVING and _is_log(table)
    if cluster is not None and not (what is What.TRAINING or is_log):
        raise ValueError(f"--cluster: {cluster} is for training runs and logs of serving; this table names its devices")
    match what:
        case What.COLLECTIVES:
            return _score_collectives(table, flows=fidelity == "flows", rows=rows, json=json)
        case What.KERNELS:
            return _score_kernels(table, rows=rows, json=json)
        case What.SERVING if is_log:
            return _score_log(table, cluster, engine, rows=rows, json=json)
        case What.SERVING:
            return _score_serving(table, engine, rows=rows, json=json)
    return _score_training(table, cluster, rows=rows, plot=plot, force=force, json=json)


def _score_training(table: Path, cluster: str | None, *, rows: bool, plot: Path | None, force: bool, json: bool) -> int:
    from meshwise import screen
    from meshwise.tables.score import show_score
    from validate.runs.clusters import own_cluster
    from validate.runs.published import TABLES, published_runs
    from validate.runs.table import read_runs
    from validate.score.training import score_runs

    if plot:
        from meshwise.scatter import save_scatter
        from profiles.files import PICTURES, check_writable

        check_writable(plot, force, PICTURES)
    own = own_cluster(cluster) if cluster else {}
    runs = published_runs(str(table)) if str(table) in TABLES else read_runs(table)
    with screen.progress() as on_progress:
        board = score_runs(runs, rows=rows, own=own, on_progress=lambda done, total: on_progress("score", done, total))
    if plot:
        save_scatter(board.scored, plot)
    if json:
        screen.print_json(board.as_dict())
    else:
        show_score(screen.console(), board)
    return 0


def _is_log(path: Path) -> bool:
    from validate.score.serving.log_files import is_log

    return is_log(path)


def _score_log(path: Path, cluster: str | None, engine: str | None, *, rows: bool, json: bool) -> int:
    from meshwise import screen
    from meshwise.tables.serving_log import show_log
    from validate.score.serving.log import score_log

    if rows:
        raise ValueError("--rows: a log is shown by percentiles; leave it out")
    found = score_log(path, cluster, engine)
    if json:
        screen.print_json(found.as_dict())
    else:
        show_log(screen.console(), found)
    return 0


def _score_kernels(table: Path, *, rows: bool, json: bool) -> int:
    from meshwise import screen
    from validate.score.kernels import score_kernels

    with screen.progress() as on_progress:
        board = score_kernels(table, rows=rows, on_progress=lambda done, total: on_progress("score", done, total))
    return _show_prices(board, json=json)


def _score_collectives(table: Path, *, flows: bool, rows: bool, json: bool) -> int:
    from meshwise import screen
    from validate.score.collectives import score_collectives

    with screen.progress() as on_progress:
        board = score_collectives(
            table, rows=rows, flows=flows, on_progress=lambda done, total: on_progress("score", done, total)
        )
    return _show_prices(board, json=json)


def _show_prices(board: "PriceScore", *, json: bool) -> int:
    from meshwise import screen
    from meshwise.tables.prices import show_prices

    if json:
        screen.print_json(board.as_dict())
    else:
        show_prices(screen.console(), board)
    return 0


def _score_serving(table: Path, engine: str | None, *, rows: bool, json: bool) -> int:
    from meshwise import screen
    from meshwise.tables.serving_score import show_serving
    from validate.score.serving.score import score_serving

    with screen.progress() as on_progress:
        board = score_serving(
            table, engine=engine, rows=rows, on_progress=lambda done, total: on_progress("score", done, total)
        )
    if json:
        screen.print_json(board.as_dict())
    else:
        show_serving(screen.console(), board)
    return 0
