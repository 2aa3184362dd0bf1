"""The report of `meshwise validate`: one plan estimated, simulated and measured on this machine."""

from pathlib import Path

from meshwise.jobfile import Question
from meshwise.report.answers import asked_words, trust_words
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, plain, predicted, signed_percent
from meshwise.report.document import Block, Cell, Column, Picture, Report, Section, Table
from meshwise.report.figures.launches import draw_launches
from meshwise.report.figures.steps import draw_side_by_side
from meshwise.report.inputs import training_inputs
from meshwise.report.limits import HERE, training_limits
from meshwise.report.provenance import training_sources
from meshwise.report.steps import PARTS_BASIS, parts_table, seconds_cell
from planner.choose.explain import duration
from profiles.units import MIB
from validate.compare import Comparison
from validate.measured import Measurement


@kind("validate")
def validate_report(question: Question, found: Comparison, path: Path | None) -> Report:
    """What was predicted beside what was measured, part by part, and every launch."""
    measured, estimated = found.measured.step_seconds, float(found.estimated.step_seconds)
    verdict = f"{found.verdict[0].upper()}{found.verdict[1:]}"
    words = (
        f"{asked_words(question)} Run here as {found.plan}, a step took {duration(measured)} where "
        f"{duration(estimated)} was estimated. {verdict}."
    )
    return assembled(
        f"Prediction against measurement: {question.job.model.name} on {found.plan.num_ranks:,} ranks",
        (words, trust_words(question, found.plan)),
        training_inputs(question, found.plan, path),
        (
            Section("Estimated, simulated, measured", _parts(question, found)),
            Section("The launches", _launches(found)),
        ),
        training_sources(question),
        (*HERE, *training_limits(question)),
    )


def measured_cell(found: Measurement) -> Cell:
    """A measured step, with the medians of its fastest and its slowest launch."""
    low, high = found.range_seconds
    return predicted(duration, found.step_seconds, low, high)


def _parts(question: Question, found: Comparison) -> tuple[Block, ...]:
    parts = (found.estimated.breakdown, found.simulated, found.measured.breakdown)
    readings = dict(zip(("estimated", "simulated", "measured"), parts, strict=True))
    whole = {name: seconds_cell(question, found.plan, float(readings[name].step_seconds))
             for name in ("estimated", "simulated")}  # fmt: skip
    whole["measured"] = measured_cell(found.measured)
    return (
        Picture("readings", "Parts of the step by how they are known",
                "On the busiest rank: estimated in closed form, simulated action by action, measured here.",
                lambda: draw_side_by_side(readings)),
        parts_table(readings, whole),
        _totals(question, found),
    )  # fmt: skip


def _totals(question: Question, found: Comparison) -> Table:
    columns = (
        Column("figure"),
        Column("estimated", "", is_number=True, is_prediction=True),
        Column("measured", "", "with the medians of its fastest and slowest launch", is_number=True),
        Column("error", "%", "estimated over measured, less one", is_number=True),
    )
    alone = found.single_measured
    memory, peak = float(found.estimated.memory.allocated_bytes), found.measured_peak.allocated_bytes
    single = float(found.single_estimated.step_seconds)
    rows: list[tuple[Cell, ...]] = [
        (Cell("step"), seconds_cell(question, found.plan, float(found.estimated.step_seconds)),
         measured_cell(found.measured), figure(found.error_fraction, signed_percent)),
        (Cell("step on one rank"), figure(single, duration), measured_cell(alone),
         figure(single / alone.step_seconds - 1.0, signed_percent)),
        (Cell("speed-up over one rank"), figure(found.estimated_speedup, "{:.2f}".format),
         figure(found.measured_speedup, "{:.2f}".format),
         figure(found.estimated_speedup / found.measured_speedup - 1.0, signed_percent)),
        (Cell("peak of tensors on the fullest rank, MiB"), figure(memory / MIB, "{:,.0f}".format),
         figure(peak / MIB, "{:,.0f}".format), figure(memory / peak - 1.0 if peak else None, signed_percent)),
    ]  # fmt: skip
    return Table("whole figures", columns, tuple(rows), PARTS_BASIS)


def _launches(found: Comparison) -> tuple[Block, ...]:
    runs = {"the plan": found.measured}
    if found.single_measured is not found.measured:
        runs["one rank"] = found.single_measured
    columns = (
        Column("of"),
        Column("launch", is_number=True),
        Column("steps", is_number=True),
        Column("median", "", "of its timed steps", is_number=True),
        Column("fastest", "", is_number=True),
        Column("slowest", "", is_number=True),
        Column("foreign cores", "", "cores that other processes kept busy meanwhile", is_number=True),
    )
    rows = tuple(
        (
            plain(name), plain(number), plain(len(one.step_seconds)), figure(one.median_seconds, duration),
            figure(min(one.step_seconds), duration), figure(max(one.step_seconds), duration),
            figure(one.foreign_cores, "{:.2f}".format),
        )
        for name, measured in runs.items()
        for number, one in enumerate(measured.launches, start=1)
    )  # fmt: skip
    steps = {f"{name}, launch {number}": one.step_seconds for name, measured in runs.items()
             for number, one in enumerate(measured.launches, start=1)}  # fmt: skip
    return (
        Picture("launches", "Every timed step", "Each dot is a timed step of a fresh start; the bar is its median.",
                lambda: draw_launches(steps)),
        Table("fresh starts", columns, rows),
    )  # fmt: skip
