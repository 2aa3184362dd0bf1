"""Tables of priced steps: a ranking, the parts of steps, and what the device holds."""

from collections.abc import Mapping, Sequence

from meshwise.errorbars import error_bar, is_tied
from meshwise.jobfile import Question
from meshwise.report.cells import NONE, figure, percent, plain, predicted, signed_percent
from meshwise.report.document import Cell, Column, Table
from meshwise.tables.plans import items, options_words
from planner.breakdown import PARTS, Breakdown
from planner.choose.explain import PART_WORDS, duration
from planner.choose.search import Candidate
from planner.cost.fit import fit_of, upper_bytes
from planner.cost.intervals import Interval, memory_intervals
from planner.cost.memory import MemoryBreakdown
from planner.cost.metrics import mfu, tokens_per_second
from planner.plan import Plan
from profiles.units import GIB

PARTS_BASIS = "Parts have no error bars of their own: the range is that of their sum, the step."
_DEGREES = ("dp", "tp", "pp", "cp", "ep", "vp", "micro_batch")
_DEGREE_NOTES = {
    "dp": "data-parallel replicas", "tp": "tensor-parallel ranks", "pp": "pipeline stages",
    "cp": "context-parallel ranks", "ep": "expert-parallel ranks", "vp": "virtual stages a rank",
    "micro_batch": "sequences a microbatch",
}  # fmt: skip


def range_words(bar: Interval) -> str:
    """`between 52.1 s and 62.5 s (80 % of runs like it)`."""
    ends = f"between {duration(float(bar.low_seconds))} and {duration(float(bar.high_seconds))}"
    return f"{ends} ({100.0 * bar.level_fraction:.0f} % range)"


def seconds_cell(question: Question, plan: Plan, seconds: float) -> Cell:
    """A predicted step with its error bar."""
    bar = error_bar(question, plan, seconds)
    return predicted(duration, seconds, float(bar.low_seconds), float(bar.high_seconds))


def rate_cells(question: Question, plan: Plan, seconds: float) -> tuple[Cell, Cell]:
    """Items a second and device, and MFU in percent, of a predicted step: as sure as the step is."""
    bar = error_bar(question, plan, seconds)
    ends = (seconds, float(bar.high_seconds), float(bar.low_seconds))
    rates = [float(tokens_per_second(one, question.job)) / question.cluster.num_devices for one in ends]
    shares = [float(mfu(one, question.job, question.cluster)) for one in ends]
    return predicted("{:,.0f}".format, *rates), predicted(percent, *shares)


def memory_cell(memory: MemoryBreakdown) -> Cell:
    """The peak that the device would read, in GiB, with its error bar where there are runs of it."""
    peak = float(memory.peak_bytes) / GIB
    bar = memory_intervals(memory).get("device")
    if bar is None:
        return figure(peak, "{:.1f}".format)
    return predicted("{:.1f}".format, peak, bar.low_bytes / GIB, bar.high_bytes / GIB)


def ranking_table(question: Question, candidates: Sequence[Candidate]) -> Table:
    """Every plan that was found, best first."""
    used = [name for name in _DEGREES if any(getattr(one.plan, name) > 1 for one in candidates) or name == "dp"]
    count = items(question)
    columns = (
        Column("#", is_number=True),
        *(Column("mb" if name == "micro_batch" else name, note=_DEGREE_NOTES[name], is_number=True) for name in used),
        Column("options", note="everything else that a plan says"),
        Column("step", "", "simulated where it was played, else estimated", is_number=True, is_prediction=True),
        Column("estimate", "", "the step in closed form", is_number=True, is_prediction=True),
        Column(count, f"{count}/s/device", "throughput of each device", is_number=True, is_prediction=True),
        Column("MFU", "%", "model FLOPs over the datasheet's peak", is_number=True, is_prediction=True),
        Column("memory", "GiB", "peak of the fullest device, as the device reads it", is_number=True,
               is_prediction=True),
        Column("fit", note="risky: one run in ten like it does not fit"),
        Column("slower", "%", "than the first", is_number=True),
    )  # fmt: skip
    rows = tuple(_ranked(question, number, one, candidates[0], used) for number, one in enumerate(candidates, start=1))
    basis = error_bar(question, candidates[0].plan, 1.0).basis
    words = f"Ranges rest on {basis}; tied: closer than the ratio of two plans of one job is known."
    return Table("plans, best first", columns, rows, words, 0)


def _ranked(question: Question, number: int, one: Candidate, best: Candidate, used: Sequence[str]) -> tuple[Cell, ...]:
    seconds = float(one.step_seconds)
    slower = seconds / float(best.step_seconds) - 1.0
    tied = "tied " if one is not best and is_tied(one, best) else ""
    return (
        plain(number),
        *(plain(getattr(one.plan, name)) for name in used),
        plain(options_words(one.plan)),
        seconds_cell(question, one.plan, seconds),
        seconds_cell(question, one.plan, float(one.estimate.step_seconds)),
        *rate_cells(question, one.plan, seconds),
        memory_cell(one.estimate.memory),
        plain(fit_of(one.estimate.memory, question.home(one.plan), question.stack)),
        Cell("" if one is best else tied + signed_percent(slower), slower),
    )


def reasons_table(candidates: Sequence[Candidate]) -> Table:
    """Why each plan won or lost."""
    columns = (Column("#", is_number=True), Column("plan"), Column("why it won or lost"))
    rows = ((plain(number), plain(one.plan), plain(one.reason)) for number, one in enumerate(candidates, start=1))
    return Table("why the others lost", columns, tuple(rows), emphasised=0)


def short_name(plan: Plan) -> str:
    """The degrees of a plan that are above 1, as plots have room for."""
    return " ".join(f"{name}{getattr(plan, name)}" for name in _DEGREES[:-1] if getattr(plan, name) > 1) or "one rank"


def parts_table(readings: Mapping[str, Breakdown], whole: Mapping[str, Cell]) -> Table:
    """The parts of a step by reading (estimated, simulated, measured); `whole` are the cells of their sums."""
    last = list(readings.values())[-1]
    columns = (
        Column("part", note="of the step, on the slowest rank; communication is what no compute hides"),
        *(Column(name, "", is_number=True, is_prediction=name != "measured") for name in readings),
        Column("share", "%", f"of the step {list(readings)[-1]}", is_number=True),
    )
    rows = [
        (
            plain(PART_WORDS[part]),
            *(figure(float(one.parts()[part]), duration) for one in readings.values()),
            figure(float(last.parts()[part] / last.step_seconds), percent),
        )
        for part in PARTS
        if any(float(one.parts()[part]) > 0.0 for one in readings.values())
    ]
    rows.append((Cell("step"), *(whole[name] for name in readings), figure(1.0, percent)))
    return Table("step by part", columns, tuple(rows), PARTS_BASIS, len(rows) - 1)


def memory_table(question: Question, names: Sequence[str], memories: Sequence[MemoryBreakdown]) -> Table:
    """What devices hold by part, each of `memories` a row."""
    parts = [part for part in memories[0].parts() if any(float(one.parts()[part]) > 0.0 for one in memories)]
    columns = (
        Column("device"),
        *(Column(part, "GiB", is_number=True, is_prediction=True) for part in parts),
        Column("peak", "GiB", "as the device reads it", is_number=True, is_prediction=True),
        Column("upper", "GiB", "nine of ten such runs stay below", is_number=True),
    )
    rows = tuple(
        (
            plain(name),
            *(figure(float(memory.parts()[part]) / GIB, "{:.2f}".format) for part in parts),
            memory_cell(memory),
            figure(float(upper_bytes(memory, question.stack)) / GIB, "{:.1f}".format),
        )
        for name, memory in zip(names, memories, strict=True)
    )
    return Table("memory by part", columns, rows, f"{memory_basis(memories[0])} Parts have none of their own.")


def memory_basis(memory: MemoryBreakdown) -> str:
    """What the error bar of a device's memory rests on."""
    bar = memory_intervals(memory).get("device")
    if bar is None:
        return f"No published run tells how far such peaks are off: {NONE}."
    return f"{bar.level_fraction:.0%} range of the peak by {bar.num_runs} published runs of {bar.num_sources} sources."
