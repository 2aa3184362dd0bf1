"""The report of `meshwise capacity` for a serving job: what its hours cost on every offer, and what users see."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from meshwise.amounts import money
from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import digits, figure, percent, plain, predicted
from meshwise.report.document import Block, Cell, Column, Picture, Report, Section, Source, Table
from meshwise.report.figures.hours import draw_daily, draw_hours
from meshwise.report.inputs import tables_inputs
from meshwise.report.limits import BUYING, serving_limits
from meshwise.report.provenance import record, serving_sources
from meshwise.report.served import engine_basis, targets_words
from meshwise.serving.capacity.answering import ServingCapacityAnswer
from meshwise.tables.serving_plans import plan_words
from planner.choose.serving_capacity.option import LEVEL, FleetOption
from profiles import catalog, costs

MOST_DRAWN, MOST_LISTED = 12, 60
_HOURS_A_DAY = 24.0
_BASIS = f"{100.0 * LEVEL:.0f} % ranges, by the error of the rate that a replica takes."


@kind("serving-capacity")
def serving_capacity_report(found: ServingCapacityAnswer, path: Path) -> Report:
    """Offers by dollars a day, the hours of the best one, and why others are out."""
    days = found.day.num_hours / _HOURS_A_DAY
    best = found.best or next(iter(found.by_offer), None)
    engine = catalog.engine(found.file.serving[0].engine)
    tables: dict[str, BaseModel] = {"job": found.file.job, "load": found.file.load, "targets": found.file.targets}
    tables |= {"serving": found.file.serving[0], "capacity": found.asked}
    sections = (
        Section("What offers cost", _offers(found, days) if found.by_offer else ()),
        Section("The hours of the day", _hours(found, best) if best else ()),
        Section("What the money goes to", _bills(found, days) if found.by_offer else ()),
        Section("What is out, and why", _refused(found) if found.refused else ()),
    )
    return assembled(
        f"What to rent or buy to serve {found.file.serving[0].model}", (_summary(found, days), engine_basis(engine)),
        tables_inputs(tables, path), sections, _sources(found), (*BUYING[:1], *serving_limits()),
    )  # fmt: skip


def _summary(found: ServingCapacityAnswer, days: float) -> str:
    day = found.day
    head = (
        f"Serving {found.file.serving[0].model} at {day.requests_per_second.mean():,.3g} requests/s on average and "
        f"{day.peak_requests_per_second:,.3g} in the busiest of {day.num_hours} hours, {targets_words(found.file)}:"
    )
    one = found.best
    if one is None:
        return f"{head} no offer was seen to hold the targets."
    return (
        f"{head} the cheapest that holds them is {one.offer.name}, {one.how}, at {money(one.dollars / days)} a day "
        f"({money(one.low_dollars / days)} to {money(one.high_dollars / days)}, {100.0 * LEVEL:.0f} % range), "
        f"${one.dollars_per_million_output_tokens:,.2f} a million output tokens, with "
        f"{plan_words(one.deployment.plan(one.peak_counts))} in the busiest hour."
    )


def _offers(found: ServingCapacityAnswer, days: float) -> tuple[Block, ...]:
    shown = found.by_offer[:MOST_LISTED]
    drawn = shown[:MOST_DRAWN]
    columns = (
        Column("offer"),
        Column("how", note="static: all replicas at all hours; autoscaled: they come and go"),
        Column("devices", "", "paid at most at a time", is_number=True),
        Column("a day", "$", is_number=True, is_prediction=True),
        Column("a million output tokens", "$", is_number=True, is_prediction=True),
        Column("risk", "%", "chance that the busiest hour misses the targets", is_number=True),
        Column("played", "%", "requests within all targets in the busiest hour, where it was simulated",
               is_number=True),
        Column("in the busiest hour"),
    )  # fmt: skip
    rows = tuple(_row(found, one, days) for one in shown)
    return (
        Picture("offers", "Dollars a day", "The cheapest way to pay each of the cheapest offers, and its range.",
                lambda: draw_daily([one.offer.name for one in drawn],
                                   [(one.dollars / days, one.low_dollars / days, one.high_dollars / days)
                                    for one in drawn])),
        Table("offers, cheapest first", columns, rows, _BASIS, 0),
    )  # fmt: skip


def _row(found: ServingCapacityAnswer, one: FleetOption, days: float) -> tuple[Cell, ...]:
    ends = (one.dollars, one.low_dollars, one.high_dollars)
    played, million = found.played(one), one.dollars_per_million_output_tokens
    return (
        plain(one.offer.name),
        plain(one.how),
        plain(one.peak_devices),
        predicted("{:,.0f}".format, *(end / days for end in ends)),
        predicted(digits, *(million * end / one.dollars for end in ends)),
        figure(one.risk_fraction, percent),
        figure(None if played is None else played.figures.attained_fraction.value, percent),
        plain(plan_words(one.deployment.plan(one.peak_counts))),
    )


def _hours(found: ServingCapacityAnswer, best: FleetOption) -> tuple[Block, ...]:
    numbers = [np.asarray(each) for each in best.num_replicas]
    columns = (
        Column("hour", is_number=True),
        Column("requests", "1/s", is_number=True),
        *(Column(f"replicas of kind {number}", "", is_number=True) for number in range(1, len(numbers) + 1)),
        Column("devices", "", "paid", is_number=True),
    )
    devices = np.sum([line.devices for line in best.lines], axis=0)
    rows = tuple(
        (
            plain(hour), figure(float(found.day.requests_per_second[hour]), digits),
            *(figure(float(each[hour]), "{:,.0f}".format) for each in numbers), figure(float(devices[hour]), digits),
        )
        for hour in range(found.day.num_hours)
    )  # fmt: skip
    return (
        Picture("hours", f"Requests and replicas by hour: {best.offer.name}",
                "Above the load, below the replicas that answer it.",
                lambda: draw_hours(found.day.requests_per_second, numbers)),
        Table("hour by hour", columns, rows),
    )  # fmt: skip


def _bills(found: ServingCapacityAnswer, days: float) -> tuple[Block, ...]:
    shown = found.by_offer[:MOST_DRAWN]
    parts = [part for part in shown[0].bill.parts() if any(float(one.bill.parts()[part]) > 0.0 for one in shown)]
    columns = (
        Column("offer"),
        *(Column(part, "$ a day", is_number=True, is_prediction=True) for part in parts),
        Column("together", "$ a day", is_number=True, is_prediction=True),
    )
    rows = tuple(
        (
            plain(one.offer.name), *(figure(float(one.bill.parts()[part]) / days, digits) for part in parts),
            predicted(digits, *(end / days for end in (one.dollars, one.low_dollars, one.high_dollars))),
        )
        for one in shown
    )  # fmt: skip
    return (Table("bills by part", columns, rows, f"{_BASIS} They are of the whole: parts follow the same replicas."),)


def _refused(found: ServingCapacityAnswer) -> tuple[Block, ...]:
    rows = tuple((plain(name), plain(reason)) for name, reason in found.refused.items())
    return (Table("offers that are out", (Column("offer"), Column("reason")), rows),)


def _sources(found: ServingCapacityAnswer) -> tuple[Source, ...]:
    shown: Sequence[FleetOption] = found.by_offer[:MOST_LISTED]
    offers = {line.offer.name: line.offer for one in shown for line in one.lines}.values()
    made = [Source("offer", one.name, one.source, one.unverified, date=one.as_of) for one in offers]
    made += [record("power", costs.power_shares()), record("ownership", costs.ownership())]
    model, engine = catalog.model(found.file.serving[0].model), catalog.engine(found.file.serving[0].engine)
    for cluster in dict.fromkeys(one.cluster for one in offers):
        made += serving_sources([model], [engine], catalog.cluster(cluster))
    return tuple(dict.fromkeys(made))
