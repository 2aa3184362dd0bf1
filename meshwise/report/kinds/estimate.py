"""The report of `meshwise estimate`: one split, where its step goes, what it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meshwise.asking import Asked, Explanation
from meshwise.asking import losses as losses_of
from meshwise.errorbars import error_bar
from meshwise.jobfile import Question
from meshwise.jsonout import stages as stages_of
from meshwise.report.answers import asked_words, largest_words, memory_words, step_words, trust_words
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, percent, plain, signed_percent
from meshwise.report.document import Block, Cell, Column, Paragraph, Picture, Report, Section, Table
from meshwise.report.figures.steps import draw_changes, draw_memory, draw_parts
from meshwise.report.inputs import training_inputs
from meshwise.report.limits import training_limits
from meshwise.report.provenance import training_sources
from meshwise.report.steps import memory_table, parts_table, seconds_cell
from meshwise.waterfall import draw_waterfall
from planner.choose.explain import duration
from planner.choose.sensitivity import MORE, Sensitivity
from planner.cost.estimate import Estimate
from planner.cost.memory import usable_bytes
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.units import GIB, MIB

if TYPE_CHECKING:
    from planner.cost.inventory import Item


@kind("estimate")
def estimate_report(
    asked: Asked, answer: Estimate, story: Explanation | None, tensors: "Sequence[Item]", path: Path | None
) -> Report:
    """One priced split; `tensors` are empty unless they were asked for."""
    question, plan = asked.question, asked.plan
    seconds = float(answer.step_seconds)
    summary = (
        f"{asked_words(question)} Split as {plan}, {step_words(question, plan, seconds)}. "
        f"{largest_words(answer.breakdown)} {memory_words(question, answer)}",
        trust_words(question, plan),
    )
    return assembled(
        f"Estimate: {question.job.model.name} on {question.cluster.num_devices:,} devices",
        summary,
        training_inputs(question, plan, path),
        (
            Section("Where the step goes", _step(asked, answer)),
            Section("What would make it faster", tuple(_limits(story.sensitivity)) if story else ()),
            Section("What the devices hold", held(question, plan, tensors)),
        ),
        training_sources(question),
        training_limits(question),
    )


def _step(asked: Asked, answer: Estimate) -> tuple[Block, ...]:
    question, plan, breakdown = asked.question, asked.plan, answer.breakdown
    bar = error_bar(question, plan, float(answer.step_seconds))
    ends = [float(bar.low_seconds)], [float(bar.high_seconds)]
    whole = {"estimated": seconds_cell(question, plan, float(answer.step_seconds))}
    blocks: list[Block] = [
        Picture("parts", "Parts of the step", "The predicted step of the slowest rank by what its time goes to.",
                lambda: draw_parts([""], [breakdown], *ends)),
        parts_table({"estimated": breakdown}, whole),
    ]  # fmt: skip
    return (*blocks, *waterfall(asked, answer))


def waterfall(asked: Asked, answer: Estimate) -> tuple[Block, ...]:
    """Where a step goes from the ideal on; nothing on several groups of nodes, which have no one ideal."""
    if not isinstance(asked.question.cluster, Cluster):
        return ()
    losses = losses_of(asked, answer)
    step, ideal, reached = sum(one.seconds for one in losses), losses[0].seconds, 0.0
    rows = []
    for loss in losses:
        reached += loss.seconds
        shares = (figure(loss.seconds / step, percent), figure(ideal / reached, percent))
        rows.append((plain(loss.words), figure(loss.seconds, duration), *shares))
    columns = (
        Column("loss", note="from the time that the model's FLOPs take at the datasheet's peak, to the step"),
        Column("time", "", "what it adds; negative is a gain", is_number=True),
        Column("share", "%", "of the step", is_number=True),
        Column("MFU left", "%", "after this loss and those above it", is_number=True),
    )
    return (
        Picture("waterfall", "From the ideal to the predicted step",
                "The ideal is every model FLOP at the datasheet's peak; each row below it adds what is lost.",
                lambda: draw_waterfall(losses, "")),
        Table("losses", columns, tuple(rows)),
    )  # fmt: skip


def _limits(found: Sensitivity) -> list[Block]:
    effects = sorted(found.effects, key=lambda one: (one.best_fraction or 0.0, one.plan_fraction))
    columns = (
        Column("resource", note=f"with {100.0 * (MORE - 1.0):.0f} % more of it"),
        Column("this plan", "%", "change of its step", is_number=True),
        Column("best plan", "%", "change of the best plan's step, searched again", is_number=True),
        Column("what the best plan becomes"),
    )
    rows = tuple(
        (
            plain(one.resource), figure(one.plan_fraction, signed_percent), figure(one.best_fraction, signed_percent),
            plain(one.best_plan if one.best_plan and one.best_plan != found.best_plan else ""),
        )
        for one in effects
    )  # fmt: skip
    return [
        Paragraph(f"The best plan today: {found.best_plan or 'none fits'}."),
        Picture("sensitivity", f"What {100.0 * (MORE - 1.0):.0f} % more of each resource changes",
                "Change of the step, of this plan as it is and of the best plan searched again.",
                lambda: draw_changes([one.resource for one in effects], [one.plan_fraction for one in effects],
                                     [one.best_fraction for one in effects])),
        Table("sensitivity", columns, rows),
    ]  # fmt: skip


def held(question: Question, plan: Plan, tensors: "Sequence[Item]" = ()) -> tuple[Block, ...]:
    """Memory of every pipeline stage by part, as a plot and as a table."""
    home, stages = question.home(plan), stages_of(question, plan)
    names = [f"stage {number}" for number in range(len(stages))] if len(stages) > 1 else ["every rank"]
    usable, capacity = float(usable_bytes(home, question.stack)), home.accelerator.memory_bytes
    drawn = Picture(
        "memory", "Memory by part", "What devices hold at the peak, beside what a plan may use and what there is.",
        lambda: draw_memory(names, stages, usable, capacity),
    )  # fmt: skip
    listed = (_tensors(tensors),) if tensors else ()
    return (drawn, memory_table(question, names, stages), *listed)


def _tensors(items: "Sequence[Item]") -> Table:
    columns = (
        Column("part"), Column("layer"), Column("tensor"), Column("each", "MiB", is_number=True),
        Column("count", note="held at the peak: layers times microbatches in flight", is_number=True),
        Column("together", "GiB", is_number=True), Column("kept by", note="recomputation policies that keep it"),
    )  # fmt: skip
    rows = tuple(
        (
            plain(one.part), plain(one.layer), plain(one.name), figure(one.each_bytes / MIB, "{:,.2f}".format),
            figure(one.num_held, "{:,.6g}".format), figure(one.num_bytes / GIB, "{:.3f}".format), Cell(one.kept_by),
        )
        for one in items
    )  # fmt: skip
    return Table("tensors of the fullest stage", columns, rows, "Closed forms; the error bar is that of their peak.")
