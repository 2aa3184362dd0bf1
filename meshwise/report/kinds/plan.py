"""The report of `meshwise plan`: the best splits, why the others lost, and what more devices buy."""

from collections.abc import Sequence
from pathlib import Path

from meshwise.asking import Asked
from meshwise.errorbars import error_bar, is_tied
from meshwise.jobfile import Question
from meshwise.report.answers import asked_words, largest_words, memory_words, step_words, trust_words
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import figure, plain, predicted
from meshwise.report.document import Block, Bullets, Column, Paragraph, Picture, Report, Section, Table
from meshwise.report.figures.fronts import draw_front
from meshwise.report.figures.scaling import draw_scaling
from meshwise.report.figures.steps import draw_memory, draw_parts, draw_ranges
from meshwise.report.inputs import training_inputs
from meshwise.report.kinds.estimate import held, waterfall
from meshwise.report.limits import training_limits
from meshwise.report.provenance import training_sources
from meshwise.report.steps import (
    memory_cell,
    parts_table,
    ranking_table,
    rate_cells,
    reasons_table,
    seconds_cell,
    short_name,
)
from meshwise.scaling import Scale
from planner.choose.search import Answer
from planner.cost.estimate import Estimate
from planner.cost.memory import usable_bytes
from planner.cost.metrics import tokens_per_second
from planner.plan import Plan
from profiles.units import GIB

MOST_DRAWN = 12
"""Plans in a plot; the table has all."""


@kind("plan")
def plan_report(question: Question, answer: Answer, scales: Sequence[Scale], path: Path | None) -> Report:
    """The ranked plans of a search, or why none fits."""
    devices = f"{question.job.model.name} on {question.cluster.num_devices:,} devices"
    scaled = Section("What more devices buy", _scaling(scales) if any(one.best for one in scales) else ())
    searched = Section("What was searched", _searched(answer))
    if not answer.candidates:
        missed = Section("Nearest misses", _misses(answer))
        words = f"{asked_words(question)} No plan {'meets every requirement' if answer.num_fitting else 'fits'}."
        return assembled(f"No plan: {devices}", (words,), training_inputs(question, None, path),
                         (missed, scaled, searched), training_sources(question), training_limits(question))  # fmt: skip
    best = answer.candidates[0].plan
    sections = (
        Section("The ranking", _ranking(question, answer)),
        Section("Where the step of the best plan goes", _best(question, answer)),
        Section("What its devices hold", held(question, best)),
        Section("Time against memory", _front(question, answer.front) if answer.front else ()),
        scaled,
        searched,
    )
    return assembled(f"The best splits of {devices}", _summary(question, answer), training_inputs(question, best, path),
                     sections, training_sources(question), training_limits(question))  # fmt: skip


def _summary(question: Question, answer: Answer) -> tuple[str, str]:
    best = answer.candidates[0]
    seconds = float(best.step_seconds)
    others = answer.candidates[1:]
    tied = sum(is_tied(one, best) for one in others)
    played = "Played action by action, " if best.simulated else "By closed forms, "
    against = ""
    if others:
        against = f" Of the next {len(others)} plans {tied or 'none'} may be as fast: " if tied else " "
        against += "they are closer than the ratio of two plans is known." if tied else "No other plan shown ties."
    words = (
        f"{asked_words(question)} The best split of {answer.num_legal:,} legal ones is {best.plan}. {played}"
        f"{step_words(question, best.plan, seconds)}. "
        f"{largest_words(best.simulated or best.estimate.breakdown)} {memory_words(question, best.estimate)}{against}"
    )
    return words, trust_words(question, best.plan)


def _ranking(question: Question, answer: Answer) -> tuple[Block, ...]:
    shown = answer.candidates[:MOST_DRAWN]
    names = [f"{number}  {short_name(one.plan)}" for number, one in enumerate(shown, start=1)]
    seconds = [float(one.step_seconds) for one in shown]
    bars = [error_bar(question, one.plan, at) for one, at in zip(shown, seconds, strict=True)]
    low, high = [float(bar.low_seconds) for bar in bars], [float(bar.high_seconds) for bar in bars]
    breakdowns = [one.simulated or one.estimate.breakdown for one in shown]
    home = question.home(shown[0].plan)
    usable, capacity = float(usable_bytes(home, question.stack)), home.accelerator.memory_bytes
    more = f" The first {len(shown)} of {len(answer.candidates)} plans." if len(shown) < len(answer.candidates) else ""
    blocks: list[Block] = [
        Picture("ranking", "Predicted steps and how sure they are",
                f"A dot is a plan's predicted step, its bar the range in which runs like it lay.{more}",
                lambda: draw_ranges(names, seconds, low, high, bars[0].level_fraction)),
        ranking_table(question, answer.candidates),
        reasons_table(answer.candidates),
    ]  # fmt: skip
    if len(shown) == 1:
        return tuple(blocks)
    return (
        *blocks,
        Picture("parts", "Where the steps go", f"Each plan's step by part, on its slowest rank.{more}",
                lambda: draw_parts(names, breakdowns, low, high)),
        Picture("memories", "What the fullest devices hold", f"Peak memory of each plan by part.{more}",
                lambda: draw_memory(names, [one.estimate.memory for one in shown], usable, capacity)),
    )  # fmt: skip


def _best(question: Question, answer: Answer) -> tuple[Block, ...]:
    best = answer.candidates[0]
    readings = {"estimated": best.estimate.breakdown} | ({"simulated": best.simulated} if best.simulated else {})
    whole = {name: seconds_cell(question, best.plan, float(one.step_seconds)) for name, one in readings.items()}
    return (parts_table(readings, whole), *waterfall(Asked(question, best.plan), best.estimate))


def _front(question: Question, front: Sequence[Estimate]) -> tuple[Block, ...]:
    plans = [one.plan for one in front if isinstance(one.plan, Plan)]
    steps = [float(one.step_seconds) for one in front]
    bars = [error_bar(question, plan, at) for plan, at in zip(plans, steps, strict=True)]
    columns = (
        Column("plan"), Column("step", is_number=True, is_prediction=True),
        Column("memory", "GiB", is_number=True, is_prediction=True),
    )  # fmt: skip
    rows = tuple(
        (plain(plan), seconds_cell(question, plan, at), memory_cell(one.memory))
        for plan, at, one in zip(plans, steps, front, strict=True)
    )
    return (
        Picture("front", "Plans that no other beats in both time and memory",
                "Each dot is a plan of the front with the range of its step; further down and to the left is better.",
                lambda: draw_front([float(one.memory.peak_bytes) / GIB for one in front], steps,
                                   [float(bar.low_seconds) for bar in bars], [float(bar.high_seconds) for bar in bars],
                                   "memory of the fullest device (GiB)", "step (seconds)")),
        Table("the front of time and memory", columns, rows, f"Ranges rest on {bars[0].basis}."),
    )  # fmt: skip


def _scaling(scales: Sequence[Scale]) -> tuple[Block, ...]:
    """The best plan on each number of devices: throughput against the first's, with its range."""
    columns = (
        Column("devices", is_number=True), Column("step", is_number=True, is_prediction=True),
        Column("rate", "items/s/device", "of each device", is_number=True, is_prediction=True),
        Column("MFU", "%", is_number=True, is_prediction=True),
        Column("device-hours", "of 1e12 items", is_number=True, note="without interruptions", is_prediction=True),
        Column("headroom", "GiB", "left of what a plan may use", is_number=True),
        Column("best plan"),
    )  # fmt: skip
    found = [(one, one.best, one.best.plan) for one in scales if one.best and isinstance(one.best.plan, Plan)]
    rows, rates = [], []
    for one, best, plan in found:
        seconds = float(best.step_seconds)
        bar = error_bar(one.question, plan, seconds)
        ends = (seconds, float(bar.low_seconds), float(bar.high_seconds))
        hours = [(one.device_hours_per_tera or 0.0) * end / seconds for end in ends]
        rows.append((
            plain(one.num_devices), seconds_cell(one.question, plan, seconds), *rate_cells(one.question, plan, seconds),
            predicted("{:,.0f}".format, *hours), figure((one.headroom_bytes or 0.0) / GIB, "{:.1f}".format),
            plain(plan),
        ))  # fmt: skip
        rates.append([float(tokens_per_second(end, one.question.job)) for end in (ends[0], ends[2], ends[1])])
    lost = [f"{one.num_devices:,}" for one in scales if one.best is None]
    blocks: list[Block] = [
        Picture("scaling", "Throughput by number of devices",
                "The same batch on more devices (strong scaling): the best plan on each, the range around it, and what "
                "the first would reach if it scaled without loss.",
                lambda: draw_scaling([one.num_devices for one, _, _ in found], rates)),
        Table("the best plan on each number of devices", columns, tuple(rows),
              f"Ranges rest on {error_bar(found[0][0].question, found[0][2], 1.0).basis}."),
    ]  # fmt: skip
    return (*blocks, Paragraph(f"No plan fits on {', '.join(lost)} devices.")) if lost else tuple(blocks)


def _searched(answer: Answer) -> tuple[Block, ...]:
    columns = (Column("plans", is_number=True), Column("what became of them"))
    counts = [
        (answer.num_plans, f"plans of {answer.num_splits:,} splits of the devices were looked at"),
        *((count, f"break: {rule}") for rule, count in answer.rejected.items()),
        (answer.num_legal, "are legal"),
        (answer.num_fitting, "of these fit in memory"),
        *((count, f"fail: {rule}") for rule, count in answer.unmet.items()),
        (answer.num_too_slow, "fit, but their kernels and blocking messages alone take longer than a plan shown"),
    ]
    rows = tuple((plain(count), plain(words)) for count, words in counts)
    return (Table("plans by what became of them", columns, rows),)


def _misses(answer: Answer) -> tuple[Block, ...]:
    return (Bullets(tuple(f"{miss.plan}: {miss.reason}" for miss in answer.nearest_misses)),) if (
        answer.nearest_misses
    ) else ()  # fmt: skip
