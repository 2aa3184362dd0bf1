"""The report of `meshwise validate --sweep`: every plan that can run here, and whether their order was predicted."""

from pathlib import Path

from meshwise.jobfile import Question
from meshwise.report.answers import asked_words
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, plain, signed_percent
from meshwise.report.document import Block, Bullets, Column, Picture, Report, Section, Table
from meshwise.report.inputs import training_inputs
from meshwise.report.kinds.validate import measured_cell
from meshwise.report.limits import HERE, training_limits
from meshwise.report.provenance import training_sources
from meshwise.report.steps import seconds_cell
from meshwise.sweepplot import draw_sweep
from meshwise.tables.sweeping import verdict
from validate.sweep.outcome import Sweep


@kind("validate-sweep")
def validate_sweep_report(question: Question, found: Sweep, path: Path | None) -> Report:
    """Estimated, simulated and measured steps of all plans, fastest measured first."""
    words = (
        f"{asked_words(question)} {len(found.outcomes)} plans were run here. {verdict(found)[0].upper()}"
        f"{verdict(found)[1:]}."
    )
    return assembled(
        f"Predictions against measurements: {question.job.model.name}, {len(found.outcomes)} plans",
        (words,),
        training_inputs(question, None, path),
        (
            Section("Every plan", _plans(question, found) if found.outcomes else ()),
            Section("Doubts and failures", _doubts(found)),
        ),
        training_sources(question),
        (*HERE, *training_limits(question)),
    )


def _plans(question: Question, found: Sweep) -> tuple[Block, ...]:
    columns = (
        Column("plan"),
        Column("estimated", "", is_number=True, is_prediction=True),
        Column("error", "%", "of the estimate", is_number=True),
        Column("simulated", "", is_number=True, is_prediction=True),
        Column("measured", "", "with the medians of its fastest and slowest launch", is_number=True),
        Column("memory error", "%", "of the estimated peak", is_number=True),
        Column("speed-up", "", "over one rank, measured", is_number=True),
    )
    rows = tuple(
        (
            plain(one.plan),
            seconds_cell(question, one.plan, float(one.estimated.step_seconds)),
            figure(one.error_fraction, signed_percent),
            seconds_cell(question, one.plan, float(one.simulated.step_seconds)),
            measured_cell(one.measured),
            figure(one.memory_error_fraction, signed_percent),
            figure(found.speedups(one)[1], "{:.2f}".format),
        )
        for one in sorted(found.outcomes, key=lambda one: one.measured.step_seconds)
    )
    return (
        Picture("sweep", "Every plan, fastest measured first",
                "Estimated, simulated and measured step of each, with the range of its launches; grey is one rank.",
                lambda: draw_sweep(found)),
        Table("plans by measured step", columns, rows, "Ranges of predictions: as their sources below."),
    )  # fmt: skip


def _doubts(found: Sweep) -> tuple[Block, ...]:
    lines = [f"Not a quiet machine: {doubt}." for doubt in found.doubts]
    lines += [f"{one.plan} did not run: {one.reason}." for one in found.failures]
    if found.num_pending:
        lines.append(f"{found.num_pending} plans were not measured: the sweep was interrupted.")
    return (Bullets(tuple(lines)),) if lines else ()
