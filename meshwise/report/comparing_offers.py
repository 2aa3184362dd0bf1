"""What would change a purchase: what-ifs, buying against renting, how clusters scale, what is affordable."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshwise.amounts import amount, money
from meshwise.capacity.answering import CapacityAnswer
from meshwise.report.cells import NONE, digits, figure, percent, plain, predicted
from meshwise.report.document import Block, Cell, Column, Paragraph, Picture, Section, Table
from meshwise.report.figures.buying import draw_tornado
from meshwise.report.figures.scaling import draw_curves
from planner.choose.capacity.breakeven import BreakEven
from planner.choose.capacity.option import Option
from planner.choose.capacity.pace import Pace
from planner.choose.capacity.scaling import Curve
from planner.choose.capacity.whatif import WhatIf
from planner.choose.explain import PART_WORDS, duration
from profiles.units import DAY, HOUR

_MOST_CLUSTERS = 5
"""Clusters whose scaling is shown; `--json` has all."""
_SPEED = "Ranges are of the speed of the run at that price; the change itself is taken as given."


def comparisons(found: CapacityAnswer) -> tuple[Section, ...]:
    """All of them; empty ones are left out by the report."""
    best = found.ranking.best
    return (
        Section("What would change the choice", _what_ifs(found.what_ifs, best) if best and found.what_ifs else ()),
        Section("Buying against renting", _break_evens(found.break_evens) if found.break_evens else ()),
        Section("More devices", _curves(_shown_curves(found))),
        Section("What is affordable", _affordable(found)),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """Both ends of what is varied, as a bar of the tornado."""

    name: str
    dollars: tuple[float, float]
    changes: bool


def _what_ifs(found: Sequence[WhatIf], best: Option) -> tuple[Block, ...]:
    columns = (
        Column("what"),
        Column("times", "", "as large as it is taken to be", is_number=True),
        Column("choice", note="the cheapest option that would do then"),
        Column("devices", is_number=True),
        Column("days", "", is_number=True, is_prediction=True),
        Column("cost", "", is_number=True, is_prediction=True),
        Column("changes the choice"),
    )
    rows = tuple(
        (
            plain(_name(one)),
            figure(one.change_factor, "{:g}".format),
            *_choice(one.best),
            _moved(one),
        )
        for one in found
    )
    bars = _bars(found, best)
    return (
        Picture("what-ifs", "What the choice would cost if a figure were another",
                "Each bar spans the cost of what would be chosen at both ends of what is varied; the line is today's.",
                lambda: draw_tornado([one.name for one in bars], [one.dollars for one in bars], best.dollars,
                                     [one.changes for one in bars])),
        Table("what if", columns, rows, _SPEED),
    )  # fmt: skip


def _moved(one: WhatIf) -> Cell:
    return Cell("yes" if one.changes_choice else "")


def _name(one: WhatIf) -> str:
    return f"{one.name} of {one.accelerator}" if one.accelerator else one.name


def _choice(best: Option | None) -> tuple[Cell, ...]:
    if best is None:
        return (Cell("nothing will do"), *[Cell(NONE, np.inf)] * 3)
    return (
        plain(best.offer.name), plain(best.num_devices),
        predicted(digits, best.days, best.low_seconds / DAY, best.high_seconds / DAY),
        predicted(money, best.dollars, best.low_dollars, best.high_dollars),
    )  # fmt: skip


def _bars(found: Sequence[WhatIf], best: Option) -> list[_Row]:
    """The widest change on top; where nothing would do there is no end to draw, and the row is marked."""
    rows = []
    for name in dict.fromkeys(_name(one) for one in found):
        own = [one for one in found if _name(one) == name]
        costs = [one.best.dollars for one in own if one.best is not None] or [best.dollars]
        factors = f"{min(one.change_factor for one in own):g} to {max(one.change_factor for one in own):g}"
        rows.append(_Row(f"{name} x {factors}", (min(costs), max(costs)), any(one.changes_choice for one in own)))
    return sorted(rows, key=lambda one: one.dollars[0] - one.dollars[1])


def _break_evens(found: Sequence[BreakEven]) -> tuple[Block, ...]:
    columns = (
        Column("to buy"),
        Column("to rent", note="the cheapest of the same accelerator that is not taken back"),
        Column("pays after", "h", "of use of each device, from which buying is cheaper", is_number=True),
        Column("of its life", "%", "above 100, renting is cheaper for good", is_number=True),
    )
    rows = tuple(
        (plain(one.bought.offer.name), plain(one.rented.offer.name), figure(one.use_seconds / HOUR, "{:,.0f}".format),
         figure(one.life_fraction, percent))
        for one in found
    )  # fmt: skip
    basis = "From prices alone, which carry no error bars; a faster or slower run changes both sides alike."
    return (Table("break-even of buying against renting", columns, rows, basis),)


def _shown_curves(found: CapacityAnswer) -> list[Curve]:
    """Those of the clusters of the cheapest options, and the weak one."""
    options = found.ranking.good or found.ranking.options
    clusters = list(dict.fromkeys(one.offer.cluster for one in options))[:_MOST_CLUSTERS]
    return [one for one in found.curves if one.is_weak or one.cluster in clusters]


def _curves(found: Sequence[Curve]) -> tuple[Block, ...]:
    if not found:
        return ()
    drawn = {
        f"{one.cluster}, {'weak' if one.is_weak else 'strong'}": (
            [point.num_devices for point in one.points], [point.tokens_per_second for point in one.points],
            [_rates(point.tokens_per_second, point.pace) for point in one.points],
        )
        for one in found
    }  # fmt: skip
    return (
        Picture("scaling", "What more devices bring each",
                "Tokens a second of a device over those on the fewest devices, with the range of each step; dashed: "
                "without loss. Strong: the same batch; weak: a batch for each device.",
                lambda: draw_curves(drawn)),
        *(Paragraph(_bend(one)) for one in found),
        *(_points(one) for one in found),
    )  # fmt: skip


def _rates(rate: float, pace: Pace) -> tuple[float, float]:
    return rate * pace.step_seconds / pace.high_seconds, rate * pace.step_seconds / pace.low_seconds


def _bend(one: Curve) -> str:
    kind = "with a batch for each device" if one.is_weak else "with the same batch"
    if one.bend is None:
        return f"{one.cluster} {kind} does not bend up to {one.points[-1].num_devices:,} devices."
    bend = one.bend
    why = f": most is lost to {PART_WORDS[bend.grown_part]}" if bend.grown_part else ""
    return (
        f"{one.cluster} {kind} bends at {bend.num_devices:,} devices, where those added bring "
        f"{percent(bend.marginal_fraction)} % of what the others bring{why}."
    )


def _points(one: Curve) -> Table:
    columns = (
        Column("devices", is_number=True),
        Column("step", "", is_number=True, is_prediction=True),
        Column("speed-up", "", "over the fewest devices", is_number=True, is_prediction=True),
        Column("efficiency", "%", "speed-up over what devices without loss would reach", is_number=True,
               is_prediction=True),
        Column("added devices", "%", "what they bring, over what those before bring", is_number=True),
        Column("what grows", note="the part of the step that takes most device time a token more than before"),
        Column("best plan"),
    )  # fmt: skip
    rows = tuple(
        (
            plain(point.num_devices),
            predicted(duration, point.pace.step_seconds, point.pace.low_seconds, point.pace.high_seconds),
            figure(point.speedup_factor, "{:.2f}".format), figure(point.efficiency_fraction, percent),
            figure(point.marginal_fraction, percent), plain(PART_WORDS.get(point.grown_part, "")),
            plain(point.pace.plan),
        )
        for point in one.points
    )  # fmt: skip
    basis = f"Ranges rest on {one.points[0].pace.basis}; an error of one size is one of its neighbours too."
    return Table(f"{one.cluster}, {'weak' if one.is_weak else 'strong'} scaling", columns, rows, basis)


def _affordable(found: CapacityAnswer) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if found.largest is not None:
        one = found.largest.option
        words = f"{one.num_devices:,} {one.offer.accelerator} ({one.offer.name})"
        tokens = amount(found.largest.tokens)
        blocks.append(Paragraph(f"The most tokens that time and money allow at this risk are {tokens}, on {words}."))
    if found.family:
        columns = (Column("model"), Column("parameters", "", is_number=True), *_choice_columns())
        rows = tuple(
            (plain(one.model), figure(one.num_parameters, "{:,.0f}".format), *_choice(one.ranking.best))
            for one in found.family
        )
        blocks.append(Table("other models of the family", columns, rows, _SPEED))
    return tuple(blocks)


def _choice_columns() -> tuple[Column, ...]:
    return (
        Column("cheapest that will do"), Column("devices", is_number=True),
        Column("days", "", is_number=True, is_prediction=True), Column("cost", "", is_number=True, is_prediction=True),
    )  # fmt: skip
