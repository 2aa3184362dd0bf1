"""The report of `meshwise validate` of a serving job: requests served here beside their prediction."""

from pathlib import Path

from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import digits, figure, plain, signed_percent
from meshwise.report.document import Block, Column, Picture, Report, Section, Table
from meshwise.report.figures.serving import draw_errors
from meshwise.report.limits import HERE, serving_limits
from meshwise.report.provenance import record
from meshwise.report.served import asked_section
from meshwise.serving import jobfile
from meshwise.serving.serving_here import ROWS, ServedHere
from planner.choose.explain import duration
from validate.serving.compare import ENGINE, Comparison

_BASIS = (
    "Predicted: at prices of iterations measured alone on this machine, which are too few to give an error bar; "
    "at own prices: of the load's own iterations, so that what is left is how they follow one another."
)


@kind("serving-validate")
def serving_validate_report(found: ServedHere, path: Path) -> Report:
    """Every load measured and predicted."""
    server = found.server
    errors = [abs(one.error(field)) for one in found.comparisons for field, _ in ROWS]
    words = (
        f"{server.model.name} was served on this machine (tp {server.tp}, at most {server.num_slots} requests and "
        f"{server.token_budget} tokens an iteration) under {len(found.comparisons)} load"
        f"{'s' if len(found.comparisons) > 1 else ''}; predictions of times and rates miss by "
        f"{100.0 * sum(errors) / len(errors):.1f} % in the mean and by {100.0 * max(errors):.1f} % at most."
    )
    return assembled(
        f"Serving measured: {server.model.name}",
        (words, _BASIS),
        asked_section(jobfile.read(path), path),
        (Section("Measured and predicted", _loads(found)),),
        (record("model", server.model), record("engine", ENGINE)),
        (*HERE, *serving_limits()),
    )


def _loads(found: ServedHere) -> tuple[Block, ...]:
    tables = [_load(number, one) for number, one in enumerate(found.comparisons, start=1)]
    errors = {f"{name}, load {number}": (one.error(field), one.error(field, composed=True))
              for number, one in enumerate(found.comparisons, start=1) for field, name in ROWS}  # fmt: skip
    return (
        Picture("errors", "How far predictions miss", "Predicted over measured, less one, of every load.",
                lambda: draw_errors(errors)),
        *tables,
    )  # fmt: skip


def _load(number: int, one: Comparison) -> Table:
    columns = (
        Column("figure", note="mean over the requests"),
        Column("measured", "", is_number=True),
        Column("predicted", "", is_number=True, is_prediction=True),
        Column("error", "%", "predicted over measured, less one", is_number=True),
        Column("at own prices", "%", "the same", is_number=True),
    )
    rows = tuple(
        (
            plain(name),
            *(figure(getattr(figures, field), digits if "tokens" in field else duration)
              for figures in (one.measured, one.predicted)),
            figure(one.error(field), signed_percent), figure(one.error(field, composed=True), signed_percent),
        )
        for field, name in ROWS
    )  # fmt: skip
    seconds = float(one.requests.arrival_seconds[-1])
    title = f"load {number}: {len(one.requests):,} requests in {duration(seconds)}"
    return Table(title, columns, rows, _BASIS)
