"""Tables and words of what to buy or rent."""

from collections.abc import Mapping, Sequence

from meshwise.amounts import days, money
from meshwise.capacity.answering import CapacityAnswer
from meshwise.report.cells import digits, figure, percent, plain, predicted
from meshwise.report.document import Cell, Column, Table
from planner.choose.capacity.option import Option
from planner.choose.explain import duration
from profiles.units import HOUR, MEGA

_SMALLEST_RISK = 0.01
_MOST_REASONS = 300
"""Rows of what is out; the commonest reasons come first in any case."""
_JOULES_PER_MEGAWATT_HOUR = MEGA * HOUR
_KILOGRAMS_PER_TONNE = 1000.0


def chosen_words(one: Option) -> str:
    """An option in a clause: what, how long, how dear, how sure."""
    ends = [days(seconds) for seconds in (one.low_seconds, one.high_seconds)]
    dollars = [money(end) for end in (one.low_dollars, one.high_dollars)]
    return (
        f"{one.num_devices:,} {one.offer.accelerator} ({one.offer.name}, {one.offer.terms}): {days(one.run.seconds)} "
        f"days ({' to '.join(ends)}, {100.0 * one.pace.level_fraction:.0f} % range), {money(one.dollars)} "
        f"({' to '.join(dollars)}), {_risk_words(one.risk_fraction)} risk"
    )


def _risk_words(fraction: float) -> str:
    return f"{100.0 * fraction:.0f} %" if fraction >= _SMALLEST_RISK else "under 1 %"


def short_offer(one: Option) -> str:
    """The name of an option that a plot has room for."""
    name = one.offer.name if len(one.offer.name) <= 26 else f"{one.offer.name[:25]}…"
    return f"{name} x {one.num_devices:,}"


def options_table(
    title: str, options: Sequence[Option], front: frozenset[tuple[str, int]], chances: Mapping[tuple[str, int], float]
) -> Table:
    """Options with every figure that decides, the best in bold."""
    columns = (
        Column("", note=""),
        Column("offer"),
        Column("terms"),
        Column("devices", is_number=True),
        Column("days", "", "with failures and checkpoints", is_number=True, is_prediction=True),
        Column("cost", "", "of the run", is_number=True, is_prediction=True),
        Column("a million tokens", "$", is_number=True, is_prediction=True),
        Column("risk", "%", "chance of ending late or over the budget", is_number=True),
        Column(
            "chance",
            "%",
            "of turning out to be the cheapest that will do, over all speeds that the ranges allow",
            is_number=True,
        ),
        Column("outlay", "", "to be spent before the run begins", is_number=True),
    )
    rows = tuple(_option_row(one, chances.get(one.key, 0.0), on_front=one.key in front) for one in options)
    basis = "Ranges are of the speed of the run; * no other option is better in cost, time and risk together."
    return Table(title, columns, rows, basis, 0 if options else None)


def _option_row(one: Option, chance_fraction: float, *, on_front: bool) -> tuple[Cell, ...]:
    million = one.tokens / MEGA
    return (
        plain("*" if on_front else ""),
        plain(one.offer.name),
        plain(one.offer.terms),
        plain(one.num_devices),
        predicted(days, one.run.seconds, one.low_seconds, one.high_seconds),
        predicted(money, one.dollars, one.low_dollars, one.high_dollars),
        predicted(digits, *(dollars / million for dollars in (one.dollars, one.low_dollars, one.high_dollars))),
        figure(one.risk_fraction, percent),
        figure(chance_fraction, percent),
        figure(one.outlay_dollars, money),
    )


def runs_table(options: Sequence[Option]) -> Table:
    """How the options run: their best plans, what they make of the time, energy and CO2."""
    columns = (
        Column("offer"),
        Column("devices", is_number=True),
        Column("best plan"),
        Column("step", "", is_number=True, is_prediction=True),
        Column("MFU", "%", "model FLOPs over the datasheet's peak", is_number=True, is_prediction=True),
        Column("goodput", "%", "share of the time in steps that count", is_number=True),
        Column("interruptions", "", "expected", is_number=True),
        Column("energy", "MWh", "of the whole site", is_number=True),
        Column("CO2", "t", "of that energy, and the run's share of making the devices", is_number=True),
    )
    rows = tuple(_run_row(one) for one in options)
    bases = "; ".join(dict.fromkeys(one.pace.basis for one in options))
    return Table("how these options run", columns, rows, f"Ranges of steps rest on {bases}.")


def _run_row(one: Option) -> tuple[Cell, ...]:
    bill, pace = one.bill, one.pace
    carbon = (bill.carbon_kilograms + bill.embodied_kilograms) / _KILOGRAMS_PER_TONNE
    is_known = pace.rated_watts > 0.0
    step = pace.step_seconds
    uses = [pace.mfu_fraction * step / seconds for seconds in (step, pace.high_seconds, pace.low_seconds)]
    return (
        plain(one.offer.name),
        plain(one.num_devices),
        plain(pace.plan),
        predicted(duration, step, pace.low_seconds, pace.high_seconds),
        predicted(percent, *uses),
        figure(float(one.run.goodput.useful_fraction), percent),
        figure(float(one.run.num_interruptions), "{:,.0f}".format),
        figure(float(bill.energy_joules) / _JOULES_PER_MEGAWATT_HOUR if is_known else None, digits),
        figure(float(carbon) if is_known else None, digits),
    )


def bill_table(options: Sequence[Option]) -> Table:
    """The bill of each option by named part."""
    parts = [part for part in options[0].bill.parts() if any(float(one.bill.parts()[part]) > 0.0 for one in options)]
    columns = (
        Column("offer"),
        Column("devices", is_number=True),
        *(Column(part, "", is_number=True, is_prediction=True) for part in parts),
        Column("together", "", is_number=True, is_prediction=True),
    )
    rows = tuple(
        (
            plain(one.offer.name), plain(one.num_devices),
            *(figure(float(one.bill.parts()[part]), money) for part in parts),
            predicted(money, one.dollars, one.low_dollars, one.high_dollars),
        )
        for one in options
    )  # fmt: skip
    return Table("bills by part", columns, rows, "The range is that of the whole: every part follows the same days.")


def reasons_table(found: CapacityAnswer) -> Table:
    """Offers that are out, with the reason of each."""
    ranking = found.ranking
    out = [(one.offer.name, one.num_devices, one.shortfall) for one in ranking.options if one.shortfall]
    out += [(one.offer.name, one.num_devices, one.reason) for one in ranking.refused]
    rows = [(plain(name), plain(number), plain(reason)) for name, number, reason in out]
    rows += [(plain(name), Cell("", 0.0), plain(reason)) for name, reason in found.question.setups.unused.items()]
    columns = (Column("offer"), Column("devices", is_number=True), Column("reason"))
    more = f"{len(rows) - _MOST_REASONS:,} more are in the answer of --json." if len(rows) > _MOST_REASONS else ""
    return Table("offers that are out", columns, tuple(rows[:_MOST_REASONS]), more)
