"""Two plans, or two clusters, side by side."""

from collections.abc import Sequence

from rich.console import Console

from meshwise.comparing import Figure, Side, differing_fields
from meshwise.tables.explain import show_comparison
from meshwise.tables.parts import table
from meshwise.tables.plans import rates
from planner.choose.explain import why_lost
from profiles.mixed import AnyCluster, groups_of
from profiles.units import GIB, GIGA, TERA


def show_sides(console: Console, first: Side, second: Side) -> None:
    """What differs in the question and the plan, then the step and the memory part by part."""
    names = (first.name, second.name)
    for one in (first, second):
        words = rates(one.asked.plan, float(one.answer.step_seconds), one.asked.question)
        console.print(f"{one.name}: {one.asked.plan}: {words}", markup=False, soft_wrap=True)
    console.print()
    made = table("field", names[0], names[1])
    for field, here, there in differing_fields(first, second):
        made.add_row(field, str(here), str(there))
    if made.rows:
        console.print(made)
        console.print()
    show_comparison(console, names, first.answer, second.answer)
    faster, slower = sorted((first, second), key=lambda one: float(one.answer.step_seconds))
    reason = why_lost(slower.answer.breakdown, faster.answer.breakdown)
    console.print(f"{slower.name} against {faster.name}: {reason}", markup=False)


_UNITS = (
    ("_flops_per_second", TERA, "TFLOP/s"), ("_bytes_per_second", GIGA, "GB/s"), ("_bytes", GIB, "GiB"),
    ("_watts", 1.0, "W"),
)  # fmt: skip


def show_clusters(console: Console, first: AnyCluster, second: AnyCluster, figures: Sequence[Figure]) -> None:
    """Every figure of two clusters that prices rest on, and the second over the first."""
    made = table("figure", f">{first.name}", f">{second.name}", ">ratio")
    for figure in figures:
        name, factor, unit = _in_units(figure.name)
        shown = ["-" if value is None else f"{value / factor:,.4g} {unit}".strip()
                 for value in (figure.here, figure.there)]  # fmt: skip
        made.add_row(name, *shown, "-" if figure.ratio is None else f"{figure.ratio:.2f}")
    console.print(made)
    console.print()
    for cluster in (first, second):
        for name, group in groups_of(cluster):
            tiers = "; ".join(f"tier{place} {tier.name}: {tier.link}" for place, tier in enumerate(group.tiers))
            console.print(f"{name}: {group.accelerator.name}; {tiers}", markup=False)


def _in_units(name: str) -> tuple[str, float, str]:
    for suffix, factor, unit in _UNITS:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " ") + _RATES.get(suffix, ""), factor, unit
    return name.replace("_", " "), 1.0, ""


_RATES = {"_bytes_per_second": " rate"}
