"""What to buy or rent, as tables."""

from collections.abc import Sequence

from rich.console import Console

from meshwise.capacity.answering import CapacityAnswer
from meshwise.tables.parts import table
from planner.choose.capacity.option import Option
from profiles.units import DAY, GIGA, MEGA, TERA

MAX_REASONS = 12


def show_answer(console: Console, found: CapacityAnswer, top: int) -> None:
    """The demand, the options, and why the others are out."""
    _show_demand(console, found)
    ranking = found.ranking
    shown = ranking.good[:top] or ranking.nearest
    if not ranking.good:
        console.print("\nnothing meets it; the nearest misses:", markup=False)
    show_options(console, shown, found)
    _show_reasons(console, found)


def show_options(console: Console, shown: Sequence[Option], found: CapacityAnswer) -> None:
    """One row an option, the cheapest first."""
    made = table(
        "",
        "offer",
        ">devices",
        ">days",
        ">range",
        ">cost",
        ">range",
        ">$ a M\ntokens",
        ">late",
        ">goodput",
        ">MFU",
        "plan",
    )
    for one in shown:
        made.add_row(
            "*" if one.key in found.ranking.front else "", one.offer.name, f"{one.num_devices:,}", f"{one.days:,.0f}",
            f"{one.low_seconds / DAY:,.0f}..{one.high_seconds / DAY:,.0f}", money(one.dollars),
            f"{money(one.low_dollars)}..{money(one.high_dollars)}", f"{one.dollars_per_million_tokens:.3g}",
            f"{one.risk_fraction:.0%}", f"{one.run.goodput.useful_fraction:.1%}", f"{one.pace.mfu_fraction:.0%}",
            str(one.pace.plan),
        )  # fmt: skip
    console.print()
    console.print(made)


def money(dollars: float) -> str:
    """Dollars to three digits: $950, $12.3k, $4.56M."""
    for size, unit in ((GIGA, "G"), (MEGA, "M"), (1e3, "k")):
        if dollars >= size:
            return f"${dollars / size:.3g}{unit}"
    return f"${dollars:.3g}"


def _show_demand(console: Console, found: CapacityAnswer) -> None:
    demand, question = found.ranking.demand, found.question
    limits = [f"from {question.start}"]
    if demand.deadline_seconds < float("inf"):
        limits.append(f"within {demand.deadline_days:,.0f} days")
    if demand.budget_dollars < float("inf"):
        limits.append(f"for {money(demand.budget_dollars)}")
    console.print(
        f"{question.job.model}: {demand.tokens / TERA:.3g} T tokens {', '.join(limits)}, with a risk of at most "
        f"{demand.max_risk_fraction:.0%}",
        markup=False,
    )
    if question.assumed:
        console.print(f"assumed: {'; '.join(question.assumed)}", style="dim", markup=False)


def _show_reasons(console: Console, found: CapacityAnswer) -> None:
    """Why offers are out, the commonest reasons first."""
    counts: dict[str, list[str]] = {}
    for one in found.ranking.options:
        if one.shortfall:
            counts.setdefault(one.shortfall.partition(":")[0], []).append(one.offer.name)
    for refused in found.ranking.refused:
        counts.setdefault(refused.reason.partition(":")[0], []).append(refused.offer.name)
    for reason in found.question.setups.unused.values():
        counts.setdefault(reason.partition(":")[0], []).append(reason)
    if counts:
        console.print("\nout:")
    for reason, names in sorted(counts.items(), key=lambda item: -len(item[1]))[:MAX_REASONS]:
        console.print(f"  {len(names):>5,}  {reason}", markup=False)
