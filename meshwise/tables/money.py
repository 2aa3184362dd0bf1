"""What a step, a million tokens and a whole run cost, draw and emit."""

from rich.console import Console

from meshwise.amounts import amount, long_time, money
from meshwise.errorbars import error_bar
from meshwise.jobfile import Question
from meshwise.money.terms import Terms, bills, items_a_step
from meshwise.tables.parts import table
from planner.breakdown import Breakdown
from planner.cost.money import Bill
from planner.plan import Plan
from profiles.model import LayerList
from profiles.units import HOUR, KILO, KWH


def show_money(
    console: Console, question: Question, plan: Plan, breakdown: Breakdown, found: Terms | None,
    useful_fraction: float = 1.0,
) -> None:  # fmt: skip
    """The bill by part, its range, energy and CO2; then whose price it is and what was assumed of the place.

    Nothing where no price is asked for.
    """
    if found is None:
        return
    made_of = bills(found, breakdown, question, useful_fraction)
    items = "samples" if isinstance(question.job.model, LayerList) else "tokens"
    whole = () if found.tokens is None else (f">{amount(found.tokens)} {items}",)
    made = table("dollars", ">a step", f">a million {items}", *whole)
    for part, first in made_of[0].parts().items():
        if float(first) > 0.0:
            made.add_row(part, *(money(float(one.parts()[part])) for one in made_of))
    made.add_row("total", *(money(float(one.total_dollars)) for one in made_of), style="bold")
    bar = error_bar(question, plan, 1.0)
    low, high = float(bar.low_seconds), float(bar.high_seconds)
    made.add_row(f"{bar.level_fraction:.0%} range", *(f"{_ends(one, low, high)}" for one in made_of))
    if found.rated_watts is not None:
        made.add_row("energy, kWh", *(amount(float(one.energy_joules) / KWH) for one in made_of))
        made.add_row("CO2, kg", *(amount(float(one.carbon_kilograms)) for one in made_of))
    if found.tokens is not None:
        seconds = float(breakdown.step_seconds) * found.tokens / items_a_step(question) / useful_fraction
        made.add_row("time", "", "", long_time(seconds))
    console.print()
    console.print(made)
    for line in _remarks(found, useful_fraction, items):
        console.print(line, style="dim", markup=False, soft_wrap=True)


def _ends(one: Bill, low: float, high: float) -> str:
    return f"{money(float(one.total_dollars) * low)} .. {money(float(one.total_dollars) * high)}"


def _remarks(found: Terms, useful_fraction: float, items: str) -> list[str]:
    lines = []
    offer = found.offer
    if offer is None:
        lines.append(f"price: {found.name}, given")
    else:
        doubts = f", unverified: {', '.join(offer.unverified)}" if offer.unverified else ""
        where = f", {offer.region or offer.country}" if offer.region or offer.country else ""
        lines.append(f"price: {offer.name} ({offer.provider}{where}, {offer.as_of or 'no date'}{doubts})")
        if not offer.network_is_published:
            lines.append(f"network between nodes: not published by {offer.provider}, assumed as of {offer.cluster}")
        if offer.interruptions_per_device_second:
            between = 1.0 / (offer.interruptions_per_device_second * found.num_devices * HOUR)
            lines.append(f"spot: some instance of this job is taken back every {between:.3g} h in the mean")
    place = found.site
    lines.append(
        f"place: PUE {place.pue:g}, {place.dollars_per_joule * KWH:.3g} dollars and "
        f"{place.carbon_kilograms_per_joule * KWH * KILO:,.0f} g CO2 a kWh"
        + (f" ({', '.join(place.assumed)})" if place.assumed else "")
    )
    if found.rated_watts is None:
        lines.append("energy and CO2: not known, no power of the accelerator is published (device_watts in [money])")
    if useful_fraction == 1.0:
        lines.append("without interruptions, checkpoints and restarts: `meshwise simulate --days` adds them")
    elif found.tokens is not None:
        lines.append(f"the {items} asked for: with {1.0 - useful_fraction:.1%} of the time lost, as played")
    return lines
