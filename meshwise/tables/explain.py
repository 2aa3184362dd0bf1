"""Explanations as tables: the waterfall of one step, what limits a buyer, two plans part by part."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from meshwise.asking import Explanation
from meshwise.tables.parts import bar, table
from planner.breakdown import PARTS
from planner.choose.explain import PART_WORDS, duration
from planner.choose.losses import IDEAL, Loss
from planner.choose.sensitivity import MORE, Sensitivity
from planner.cost.estimate import Estimate
from profiles.units import GIB

MARGIN = 5e-5
"""Changes below this fraction of the step are shown as none."""


def show_waterfall(console: Console, found: Sequence[Loss]) -> None:
    """From the ideal to the prediction; each row says what is lost, and the MFU that is left after it."""
    step = sum(loss.seconds for loss in found)
    made = table("from the ideal to the predicted step", ">seconds", ">of the step", ">MFU left", "")
    total = 0.0
    for loss in found:
        total += loss.seconds
        sign = "" if loss.name == IDEAL or loss.seconds < 0 else "+"
        ideal = found[0].seconds
        made.add_row(
            loss.words, sign + duration(loss.seconds), f"{loss.seconds / step:.1%}",
            f"{ideal / total:.1%}", bar(abs(loss.seconds) / step),
        )  # fmt: skip
    made.add_row("predicted step", duration(step), "100.0%", f"{found[0].seconds / step:.1%}", "", style="bold")
    console.print(made)
    console.print()


def show_explanation(console: Console, story: Explanation) -> None:
    """The waterfall, then what limits the plan and the buyer."""
    console.print()
    show_waterfall(console, story.losses)
    show_sensitivity(console, story.sensitivity)


def show_sensitivity(console: Console, found: Sensitivity) -> None:
    """What a tenth more of each resource does to this plan's step and to the best plan's."""
    best = found.best_plan
    made = table(f"with {MORE - 1.0:.0%} more", ">this plan", ">best plan", "what the best plan becomes")
    for effect in sorted(found.effects, key=lambda one: (one.best_fraction or 0.0, one.plan_fraction)):
        changed = effect.best_plan is not None and effect.best_plan != best
        made.add_row(
            effect.resource, _change(effect.plan_fraction),
            "-" if effect.best_fraction is None else _change(effect.best_fraction),
            str(effect.best_plan) if changed else "",
        )  # fmt: skip
    console.print(made)
    console.print(f"change of the step; the best plan today: {best or 'none fits'}", style="dim", markup=False)
    console.print()


def _change(fraction: float) -> str:
    return "none" if abs(fraction) < MARGIN else f"{fraction:+.1%}" if abs(fraction) >= 1e-3 else f"{fraction:+.2%}"


def show_against_best(console: Console, best: Estimate, name: str, other: Estimate) -> None:
    """Plan 1 of a ranking beside another plan, part by part, by estimate."""
    said = f"{name} ({other.plan})" if name.startswith("plan ") else str(other.plan)
    console.print()
    console.print(f"plan 1 ({best.plan}) beside {said}, by estimate", style="bold", markup=False)
    show_comparison(console, ("plan 1", name if name.startswith("plan ") else "other"), best, other)


def show_comparison(console: Console, names: tuple[str, str], first: Estimate, second: Estimate) -> None:
    """Two plans part by part: seconds, then GiB."""
    console.print(_parts_table(names, first, second))
    console.print()
    console.print(_memory_table(names, first, second))
    console.print()


def _parts_table(names: tuple[str, str], first: Estimate, second: Estimate) -> Table:
    made = table("part", f">{names[0]}", f">{names[1]}", ">difference", "")
    step = float(max(first.step_seconds, second.step_seconds))
    for part in PARTS:
        here, there = (float(one.breakdown.parts()[part]) for one in (first, second))
        if max(here, there) > 0.0:
            made.add_row(PART_WORDS[part], *_pair(here, there), _sided(here, there, step))
    made.add_row("step", *_pair(float(first.step_seconds), float(second.step_seconds)), "", style="bold")
    return made


def _pair(here: float, there: float) -> tuple[str, str, str]:
    gap = there - here
    words = "" if abs(gap) < 1e-9 * max(here, there) else f"{'+' if gap > 0 else ''}{duration(gap)}"
    return duration(here), duration(there), words


def _sided(here: float, there: float, step: float) -> str:
    """A bar of the difference: + where the second takes longer, - where it saves."""
    return ("+" if there > here else "-") * round(BAR_SCALE * abs(there - here) / step)


BAR_SCALE = 60
"""Characters for a difference as large as the step."""


def _memory_table(names: tuple[str, str], first: Estimate, second: Estimate) -> Table:
    made = table("memory of the fullest rank, GiB", f">{names[0]}", f">{names[1]}", ">difference")
    for part in first.memory.parts():
        here, there = (float(one.memory.parts()[part]) / GIB for one in (first, second))
        if max(here, there) > 0.0:
            made.add_row(part, f"{here:.2f}", f"{there:.2f}", f"{there - here:+.2f}")
    here, there = float(first.memory.peak_bytes) / GIB, float(second.memory.peak_bytes) / GIB
    made.add_row("peak", f"{here:.2f}", f"{there:.2f}", f"{there - here:+.2f}", style="bold")
    return made
