"""A sweep as tables: every plan estimated | simulated | measured, memory and scaling, and the verdict on the order."""

from rich.console import Console
from rich.table import Table

from meshwise.jobfile import Question
from meshwise.tables.parts import share, table
from meshwise.tables.plans import show_question
from planner.breakdown import PARTS
from planner.choose.explain import PART_WORDS, duration
from profiles.units import MIB
from validate.sweep.outcome import Outcome, Sweep


def show_sweep(console: Console, question: Question, found: Sweep) -> None:
    """Steps, parts, memory and scaling of all plans, what failed, and whether the order was predicted."""
    show_question(console, question)
    console.print(_steps(found))
    console.print()
    console.print(_scaling(found))
    console.print()
    console.print(_parts(found))
    for failure in found.failures:
        console.print(f"{failure.plan} did not run: {failure.reason}", markup=False)
    if found.num_pending:
        console.print(f"{found.num_pending} plans were not measured: the sweep was interrupted", markup=False)
    console.print()
    for doubt in found.doubts:
        console.print(f"not a quiet machine: {doubt}", markup=False)
    console.print(verdict(found), style="bold", markup=False)


def _by_measured(found: Sweep) -> list[Outcome]:
    return sorted(found.outcomes, key=lambda outcome: outcome.measured.step_seconds)


def _steps(found: Sweep) -> Table:
    made = table(
        "plan", ">estimated", ">error", ">simulated", ">error", ">measured", ">launches", ">rank: estimated",
        ">measured", title="step, fastest measured first",
    )  # fmt: skip
    order = sorted(found.outcomes, key=lambda outcome: float(outcome.estimated.step_seconds))
    for place, outcome in enumerate(_by_measured(found), start=1):
        made.add_row(*_step(outcome), str(order.index(outcome) + 1), str(place))
    made.add_row(*_step(found.alone), "", "", style="dim")
    return made


def _step(outcome: Outcome) -> tuple[str, ...]:
    low, high = outcome.measured.range_seconds
    return (
        "one rank" if outcome.plan.num_ranks == 1 else f"{outcome.plan}{_emulated(outcome)}",
        duration(float(outcome.estimated.step_seconds)),
        f"{outcome.error_fraction:+.1%}",
        duration(float(outcome.simulated.step_seconds)),
        f"{outcome.simulated_error_fraction:+.1%}",
        duration(outcome.measured.step_seconds),
        f"{duration(low)} .. {duration(high)}",
    )


def _emulated(outcome: Outcome) -> str:
    """Behind a plan of more ranks than cores."""
    return f" (emulated, {outcome.ranks_per_core:g} ranks a core)" if outcome.ranks_per_core > 1.0 else ""


def _scaling(found: Sweep) -> Table:
    made = table(
        "plan", ">speed-up: estimated", ">measured", ">efficiency: estimated", ">measured", ">memory: estimated",
        ">measured", ">error",
        title="over one rank, and peak memory of the fullest rank",
    )  # fmt: skip
    for outcome in _by_measured(found):
        speedups = found.speedups(outcome)
        made.add_row(
            str(outcome.plan),
            *(f"{speedup:.2f}" for speedup in speedups),
            *(share(speedup / outcome.plan.num_ranks) for speedup in speedups),
            *(
                f"{size / MIB:,.0f} MiB"
                for size in (outcome.estimated.memory.allocated_bytes, outcome.peak.allocated_bytes)
            ),
            f"{outcome.memory_error_fraction:+.1%}",
        )
    return made


def _parts(found: Sweep) -> Table:
    """Seconds of every part of every plan."""
    made = table("plan", "part", ">estimated", ">simulated", ">measured", title="step by part, on the busiest rank")
    for outcome in _by_measured(found):
        breakdowns = (outcome.estimated.breakdown, outcome.simulated, outcome.measured.breakdown)
        name = str(outcome.plan)
        for part in PARTS:
            seconds = [float(breakdown.parts()[part]) for breakdown in breakdowns]
            if max(seconds) > 0.0:
                made.add_row(name, PART_WORDS[part], *map(duration, seconds))
                name = ""
    return made


def verdict(found: Sweep) -> str:
    """How well the order was predicted, in one sentence."""
    if len(found.outcomes) < 2:
        return "fewer than two plans were measured: there is no order to compare"
    right, apart = found.pairs
    tau = f"{found.kendall_tau:.2f}" if found.kendall_tau is not None else "none"
    mean = sum(abs(outcome.error_fraction) for outcome in found.outcomes) / len(found.outcomes)
    words = (
        f"{right} of {apart} pairs that differ by more than the noise ({found.noise_fraction:.0%}) are in the order "
        f"estimated, Kendall's tau {tau}; the step is off by {mean:.1%} on average"
    )
    regret = found.regret_fraction or 0.0
    if regret == 0.0:
        return f"{words}; the plan estimated fastest is the fastest"
    tied = ", a tie" if regret <= found.noise_fraction else ""
    return f"{words}; the plan estimated fastest is {regret:.1%} slower than the fastest{tied}"
