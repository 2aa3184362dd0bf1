"""A validated plan as tables: estimated | simulated | measured, part by part, and the speed-up over one rank."""

from rich.console import Console
from rich.table import Table

from meshwise.jobfile import Question
from meshwise.tables.parts import share, table
from meshwise.tables.plans import show_question
from planner.breakdown import PARTS
from planner.choose.explain import PART_WORDS, duration
from profiles.units import MIB
from validate.compare import Comparison
from validate.measured import Measurement


def show_comparison(console: Console, question: Question, found: Comparison) -> None:
    """The parts side by side, memory, speed-up, how quiet the machine was, and the verdict."""
    show_question(console, question)
    emulated = f", emulated: {found.ranks_per_core:g} ranks a core" if found.ranks_per_core > 1.0 else ""
    console.print(f"{found.plan}, run on this machine{emulated}", markup=False)
    console.print()
    console.print(_parts(found))
    console.print()
    console.print(_totals(found))
    console.print()
    console.print(_launches("the plan", found.measured), markup=False)
    if found.single_measured and found.single_measured is not found.measured:
        console.print(_launches("one rank", found.single_measured), markup=False)
    console.print(found.verdict, style="bold", markup=False)


def _parts(found: Comparison) -> Table:
    columns = (found.estimated.breakdown, found.simulated, found.measured.breakdown)
    made = table("part", ">estimated", ">simulated", ">measured", title="step by part, on the busiest rank")
    for part in PARTS:
        seconds = [float(breakdown.parts()[part]) for breakdown in columns]
        if max(seconds) > 0.0:
            made.add_row(PART_WORDS[part], *map(duration, seconds))
    steps = (*(float(one.step_seconds) for one in columns[:2]), found.measured.step_seconds)
    made.add_row("step", *map(duration, steps), style="bold")
    return made


def _totals(found: Comparison) -> Table:
    made = table("", ">estimated", ">measured", ">error")
    alone = found.single_measured.step_seconds if found.single_measured else None
    memory, peak = found.estimated.memory, found.measured_peak
    for name, predicted, measured, write in (
        ("step", float(found.estimated.step_seconds), found.measured.step_seconds, duration),
        ("step on one rank", float(found.single_estimated.step_seconds), alone, duration),
        ("speed-up over one rank", found.estimated_speedup, found.measured_speedup, "{:.2f}".format),
        ("peak of tensors on the fullest rank", float(memory.allocated_bytes), peak.allocated_bytes, _mebibytes),
        ("peak of its resident set", float(memory.peak_bytes), peak.resident_bytes, _mebibytes),
    ):
        error = f"{predicted / measured - 1.0:+.1%}" if measured else "-"
        made.add_row(name, write(predicted), write(measured) if measured else "-", error)
    ranks = found.plan.num_ranks
    measured_share = found.measured_speedup / ranks if found.measured_speedup else None
    made.add_row("scaling efficiency", share(found.estimated_speedup / ranks), share(measured_share), "")
    return made


def _mebibytes(num_bytes: float) -> str:
    return f"{num_bytes / MIB:,.0f} MiB"


def _launches(name: str, measurement: Measurement) -> str:
    low, high = measurement.range_seconds
    return (
        f"{name}: {len(measurement.launches)} launches of {len(measurement.launches[0].step_seconds)} steps, medians "
        f"{duration(low)} .. {duration(high)}, {measurement.num_discarded} run again because the machine was busy"
    )
