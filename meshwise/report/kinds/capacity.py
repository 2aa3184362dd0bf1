"""The report of `meshwise capacity` for a training run: what to buy or rent, what it costs, and how sure that is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meshwise.amounts import amount, money
from meshwise.capacity.answering import CapacityAnswer
from meshwise.report.assembling import assembled, kind
from meshwise.report.buying import (
    bill_table,
    chosen_words,
    options_table,
    reasons_table,
    runs_table,
    short_offer,
)
from meshwise.report.comparing_offers import comparisons
from meshwise.report.document import Block, Paragraph, Picture, Report, Section, Source
from meshwise.report.figures.buying import Spot, draw_bills, draw_choice, draw_days
from meshwise.report.inputs import tables_inputs
from meshwise.report.limits import BUYING, TRAINING
from meshwise.report.provenance import curves, error_bars, record
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option
from planner.choose.pareto import front_mask
from profiles import catalog
from profiles.record import Sourced
from profiles.units import DAY

MOST_DRAWN, MOST_LISTED = 12, 60
"""Options in a plot, and in a table; `--json` has all."""


@kind("capacity")
def capacity_report(found: CapacityAnswer, path: Path | None) -> Report:
    """The ranked options, their days and bills, and why the others are out."""
    ranking, demand = found.ranking, found.ranking.demand
    shown = ranking.good or ranking.nearest
    drawn = _distinct(shown)
    title = f"What to buy or rent: {found.question.job.model} on {amount(demand.tokens)} tokens"
    return assembled(
        title,
        _summary(found),
        tables_inputs({"job": found.question.job, "capacity": found.question.stated}, path),
        (
            Section("Cost, time and risk", _choice(found, shown)),
            Section("Days against the deadline", _days(drawn, demand)),
            Section("What the money goes to", _bills(drawn)),
            *comparisons(found),
            Section("The smallest clusters that will do", _smallest(found)),
            Section("What is out, and why", (reasons_table(found),)),
        ),
        _sources(found, shown[:MOST_LISTED]),
        (*BUYING, *TRAINING),
    )


def _distinct(shown: Sequence[Option]) -> list[Option]:
    """Of each accelerator and each kind of terms the first that ends, as many as a plot has room for."""
    found: dict[tuple[str, str], Option] = {}
    for one in shown:
        if one.ends:
            found.setdefault((one.offer.accelerator, one.offer.terms), one)
    return list(found.values())[:MOST_DRAWN]


def _front(options: Sequence[Option]) -> frozenset[tuple[str, int]]:
    """Keys of the options that none of the others beats in cost, time and risk together."""
    ends = [one for one in options if one.ends]
    costs = np.array([(one.dollars, one.days, one.risk_fraction) for one in ends]).reshape(-1, 3)
    return frozenset(one.key for one, kept in zip(ends, front_mask(costs), strict=True) if kept)


def demand_words(found: CapacityAnswer) -> str:
    """What is to be done, by when and for how much."""
    demand, question = found.ranking.demand, found.question
    words = f"Training {question.job.model} on {amount(demand.tokens)} tokens from {question.start}"
    if np.isfinite(demand.deadline_seconds):
        words += f" within {demand.deadline_days:,.0f} days"
    if np.isfinite(demand.budget_dollars):
        words += f" for at most {money(demand.budget_dollars)}"
    return f"{words}, with a risk of at most {100.0 * demand.max_risk_fraction:.0f} %"


def _summary(found: CapacityAnswer) -> tuple[str, ...]:
    ranking = found.ranking
    head = f"{demand_words(found)}:"
    if ranking.best is None:
        nearest = " ".join(f"{chosen_words(one)}, but {one.shortfall}." for one in ranking.nearest)
        answer = f"{head} nothing that is on offer will do. The nearest: {nearest}"
    else:
        fastest = min(ranking.good, key=lambda one: one.high_seconds)
        answer = f"{head} the cheapest of {len(ranking.good):,} options that will do is {chosen_words(ranking.best)}."
        if fastest is not ranking.best:
            answer += f" The fastest is {chosen_words(fastest)}."
    basis = dict.fromkeys(one.pace.basis for one in (ranking.good or ranking.options)[:MOST_DRAWN])
    trust = f"Ranges of days and dollars rest on {'; '.join(basis)}." if basis else ""
    assumed = f"Assumed, because nobody stated them: {'; '.join(found.question.assumed)}."
    beside = " ".join(filter(None, (trust, assumed if found.question.assumed else "")))
    return (answer, beside) if beside else (answer,)


def _choice(found: CapacityAnswer, shown: Sequence[Option]) -> tuple[Block, ...]:
    ranking, demand = found.ranking, found.ranking.demand
    ends, front = [one for one in ranking.options if one.ends], _front(shown)
    if not ends:
        return ()
    spots = [
        Spot(
            one.offer.accelerator, (one.days, one.low_seconds / DAY, one.high_seconds / DAY),
            (one.dollars, one.low_dollars, one.high_dollars), not one.shortfall, one.key in front,
        )
        for one in ends
    ]  # fmt: skip
    more = len(shown) - MOST_LISTED
    note = (Paragraph(f"{more:,} more options are in the answer of --json."),) if more > 0 else ()
    return (
        Picture("choice", "Cost against time",
                "Full marks meet deadline, budget and risk; error bars are of those of them that no other beats in "
                "cost, time and risk together. Further down and to the left is better.",
                lambda: draw_choice(spots, demand.deadline_days, demand.budget_dollars)),
        options_table("options, cheapest first", shown[:MOST_LISTED], front, found.chances),
        runs_table(shown[:MOST_LISTED]),
        *note,
    )  # fmt: skip


def _days(shown: Sequence[Option], demand: Demand) -> tuple[Block, ...]:
    if not shown:
        return ()
    days = [(one.days, one.low_seconds / DAY, one.high_seconds / DAY) for one in shown]
    late = [one.late_fraction for one in shown]
    return (
        Picture("days", "How long the run takes",
                "A dot is the predicted length with failures and checkpoints, its bar the range in which runs like it "
                "lay; the cheapest option of each accelerator and terms.",
                lambda: draw_days([short_offer(one) for one in shown], days, late, demand.deadline_days)),
    )  # fmt: skip


def _bills(shown: Sequence[Option]) -> tuple[Block, ...]:
    if not shown:
        return ()
    bills = [{part: float(value) for part, value in one.bill.parts().items()} for one in shown]
    return (
        Picture("bills", "Bills by part", "What the cheapest option of each accelerator and terms pays for.",
                lambda: draw_bills([short_offer(one) for one in shown], bills,
                                   [(one.low_dollars, one.high_dollars) for one in shown])),
        bill_table(shown),
    )  # fmt: skip


def _smallest(found: CapacityAnswer) -> tuple[Block, ...]:
    ranking = found.ranking
    if not ranking.smallest:
        return ()
    return (
        Paragraph("Of each accelerator the fewest devices that meet every limit, at the lowest price."),
        options_table("smallest clusters", ranking.smallest, _front(ranking.smallest), found.chances),
    )


def _sources(found: CapacityAnswer, shown: Sequence[Option]) -> tuple[Source, ...]:
    """The offers that are shown, what bills are made with, and the clusters with their curves."""
    demand = found.ranking.demand
    offers = {one.offer.name: one.offer for one in shown}.values()
    made = [Source("offer", one.name, one.source, one.unverified, date=one.as_of) for one in offers]
    made += [record("reliability", demand.fleet), record("power", demand.power), record("ownership", demand.ownership)]
    clusters: list[Source] = []
    for name in dict.fromkeys(one.offer.cluster for one in shown):
        cluster = catalog.cluster(name)
        clusters += [record("cluster", cluster), record("accelerator", cluster.accelerator), *curves(cluster)]
    model: Sourced = catalog.model(found.question.job.model or "")
    return tuple(dict.fromkeys([record("model", model), *made, *clusters, *error_bars()]))
