"""What to buy or rent for a training run, as tables: the options, the best in detail, and what would change it."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from meshwise.amounts import amount, days, long_time, money
from meshwise.capacity.answering import CapacityAnswer
from meshwise.tables.longrun import PART_WORDS as SHARE_WORDS
from meshwise.tables.parts import share, table
from planner.choose.capacity.answer import Ranking
from planner.choose.capacity.option import Option
from planner.choose.capacity.scaling import BEND_FRACTION, Curve
from planner.choose.capacity.whatif import WhatIf
from planner.choose.explain import PART_WORDS, duration
from profiles.units import KILO, KWH, MEGA, TERA

MAX_REASONS = 12
NUM_SMALLEST = 6


def show_answer(console: Console, found: CapacityAnswer, top: int) -> None:
    """The demand, the options, the best in detail, what would change the choice, and why the others are out."""
    ranking = found.ranking
    _show_demand(console, found)
    if not ranking.options:
        console.print("\nnothing will do: no plan can run on any of these offers", style="bold", markup=False)
    elif ranking.best is None:
        console.print("\nnothing will do; the nearest misses:", style="bold", markup=False)
        _show_options(console, ranking.nearest, found)
        for one in ranking.nearest:
            console.print(f"  {one.offer.name} x {one.num_devices:,}: {one.shortfall}", markup=False)
    else:
        rows = by_offer(ranking)
        _show_options(console, rows[:top], found)
        if len(rows) > top:
            console.print(f"{len(rows) - top} more offers will do; --top shows them", style="dim")
        _show_front(console, found)
        _show_best(console, ranking.best, found)
        _show_smallest(console, ranking)
    _show_largest(console, found)
    _show_what_ifs(console, found.what_ifs)
    _show_break_evens(console, found)
    _show_curves(console, found)
    _show_reasons(console, found)
    _show_basis(console, found)


def by_offer(ranking: Ranking) -> list[Option]:
    """Of each offer the cheapest size that will do, the cheapest first."""
    kept: dict[str, Option] = {}
    for one in ranking.good:
        kept.setdefault(one.offer.name, one)
    return list(kept.values())


def span(low: str, high: str) -> str:
    """Two ends of a range."""
    return f"{low} .. {high}"


def _show_demand(console: Console, found: CapacityAnswer) -> None:
    demand, question = found.ranking.demand, found.question
    limits = [f"from {question.start}"]
    if np.isfinite(demand.deadline_seconds):
        limits.append(f"within {days(demand.deadline_seconds)} days")
    if np.isfinite(demand.budget_dollars):
        limits.append(f"for {money(demand.budget_dollars)}")
    console.print(
        f"{question.job.model}: {amount(demand.tokens)} tokens {', '.join(limits)}; a risk of "
        f"{demand.max_risk_fraction:.0%} is accepted",
        style="bold", markup=False,
    )  # fmt: skip
    if question.assumed:
        console.print(f"assumed: {'; '.join(question.assumed)}", style="dim", markup=False)


def _show_options(console: Console, shown: Sequence[Option], found: CapacityAnswer) -> None:
    """One row an option, the cheapest first."""
    made = table(
        "offer",
        ">devices",
        ">days",
        ">range",
        ">cost",
        ">range",
        ">$ a M\ntokens",
        ">risk",
        ">chance",
        ">goodput",
        ">MFU",
    )
    made.columns[0].overflow = "fold"  # a name that is cut cannot be asked for
    chances: dict[str, float] = {}
    for (name, _), chance in found.chances.items():
        chances[name] = chances.get(name, 0.0) + chance
    for one in shown:
        made.add_row(
            one.offer.name + ("" if one.pace.is_measured else " ?"), f"{one.num_devices:,}", days(one.run.seconds),
            span(days(one.low_seconds), days(one.high_seconds)), money(one.dollars),
            span(money(one.low_dollars), money(one.high_dollars)), f"{one.dollars_per_million_tokens:.3g}",
            f"{one.risk_fraction:.0%}", f"{chances.get(one.offer.name, 0.0):.0%}",
            f"{one.run.goodput.useful_fraction:.1%}", f"{one.pace.mfu_fraction:.0%}",
        )  # fmt: skip
    console.print()
    console.print(made)
    if shown:
        console.print(
            f"ranges hold {shown[0].pace.level_fraction:.0%} of runs; risk: of ending late or over budget; chance: "
            "that the offer, at one size or another, is the cheapest that will do once speeds are known",
            style="dim", markup=False,
        )  # fmt: skip
    if not all(one.pace.is_measured for one in shown):
        console.print(
            "? no kernel of this accelerator was timed: it is priced as others are, by the best product seen on it or "
            "by its datasheet; time one before you buy (meshwise calibrate)",
            style="dim", markup=False,
        )  # fmt: skip


def _show_front(console: Console, found: CapacityAnswer) -> None:
    """What more money buys."""
    front = [one for one in found.ranking.good if one.key in found.ranking.front]
    if len(front) < 2:
        return
    console.print("\nno other option beats these in cost, time and risk together:")
    made = table("offer", ">devices", ">cost", ">days", ">risk")
    for one in front:
        made.add_row(
            one.offer.name,
            f"{one.num_devices:,}",
            money(one.dollars),
            days(one.run.seconds),
            f"{one.risk_fraction:.1%}",
        )
    console.print(made)


def _show_best(console: Console, best: Option, found: CapacityAnswer) -> None:
    """Plan, step, interruptions, bill and energy of the choice."""
    run, pace, bill, offer = best.run, best.pace, best.bill, best.offer
    fleet = found.ranking.demand.fleet
    console.print(
        f"\nthe cheapest: {offer.name} x {best.num_devices:,} {offer.accelerator}", style="bold", markup=False
    )
    lines = [
        f"plan     {pace.plan}",
        f"step     {duration(pace.step_seconds)} ({duration(pace.low_seconds)} .. {duration(pace.high_seconds)}, "
        f"{pace.basis}), {run.num_steps:,.0f} of them",
        f"stops    {run.num_interruptions:,.0f}, one every {long_time(run.stops.seconds_between)} (failures as of "
        f"{fleet.name}), {long_time(run.stops.restart_seconds)} to restart; checkpoints of "
        f"{pace.state_bytes / TERA:.2f} TB every {long_time(run.saves.interval_seconds)}",
        "time     " + ", ".join(
            f"{share(float(value))} {SHARE_WORDS[part]}" for part, value in run.goodput.parts().items() if value
        ),
        "bill     " + ", ".join(f"{money(value)} {part}" for part, value in bill.parts().items() if value),
    ]  # fmt: skip
    if best.outlay_dollars:
        lines.append(f"outlay   {money(best.outlay_dollars)} before the run, of which it uses up what is billed")
    if pace.rated_watts:
        lines.append(
            f"energy   {bill.energy_joules / KWH / MEGA:.3g} GWh, {bill.carbon_kilograms / KILO:,.0f} t CO2"
            + (
                f", and {bill.embodied_kilograms / KILO:,.0f} t of making the devices"
                if bill.embodied_kilograms
                else ""
            )
        )
    price = f"${offer.dollars_per_device_hour:.4g} a device hour" if offer.dollars_per_device_hour else (
        f"${offer.purchase_dollars_per_device:,.0f} a device, {offer.includes} included"
    )  # fmt: skip
    unverified = f"; not checked against a source: {', '.join(offer.unverified)}" if offer.unverified else ""
    lines.append(f"price    {price}, {offer.as_of}: {offer.source}{unverified}")
    for line in lines:
        console.print(f"  {line}", markup=False)


def _show_smallest(console: Console, ranking: Ranking) -> None:
    names = ", ".join(
        f"{one.num_devices:,} {one.offer.accelerator} ({days(one.run.seconds)} days, {money(one.dollars)})"
        for one in ranking.smallest[:NUM_SMALLEST]
    )
    console.print(f"\nthe smallest clusters that will do: {names}", markup=False)


def _show_largest(console: Console, found: CapacityAnswer) -> None:
    if found.largest is not None:
        one = found.largest.option
        console.print(
            f"\nthe largest job for the time and money: {amount(found.largest.tokens)} tokens on {_words(one)}",
            markup=False,
        )
    if not found.family:
        return
    made = table("model", ">parameters", ">tokens", ">cost", "on", ">most tokens", "on")
    for member in found.family:
        best, most = member.ranking.best, member.largest
        made.add_row(
            member.model, amount(member.num_parameters), amount(member.ranking.demand.tokens),
            money(best.dollars) if best else "none will do", _words(best),
            amount(most.tokens) if most else "-", _words(most.option if most else None),
        )  # fmt: skip
    console.print()
    console.print(made)


def _words(one: Option | None) -> str:
    return f"{one.offer.name} x {one.num_devices:,}" if one else "-"


def _show_what_ifs(console: Console, what_ifs: Sequence[WhatIf]) -> None:
    if not what_ifs:
        return
    console.print("\nif it were otherwise, the choice would be:")
    made = table("", ">times", "choice", ">cost", ">days")
    for one in what_ifs:
        name = f"{one.name} of {one.accelerator}" if one.accelerator else one.name
        if one.best is None:
            made.add_row(name, f"{one.change_factor:g}", "nothing would do", "", "")
            continue
        choice = _words(one.best) if one.changes_choice else "the same"
        made.add_row(name, f"{one.change_factor:g}", choice, money(one.best.dollars), days(one.best.run.seconds))
    console.print(made)


def _show_break_evens(console: Console, found: CapacityAnswer) -> None:
    if not found.break_evens:
        return
    console.print("\nbuying against renting the same accelerator at its lowest rent:")
    made = table("buy", "or rent", ">pays after", ">of its life")
    for one in found.break_evens:
        ends = np.isfinite(one.use_seconds)
        made.add_row(
            one.bought.offer.name, one.rented.offer.name, f"{days(one.use_seconds)} days" if ends else "never",
            f"{one.life_fraction:.0%}" if ends else "-",
        )  # fmt: skip
    console.print(made)
    console.print("days of use of each device; over 100 %, renting is cheaper for good", style="dim")


def _show_curves(console: Console, found: CapacityAnswer) -> None:
    """The curves of the best option's cluster, and in a line where the others bend."""
    best = found.ranking.best or next(iter(found.ranking.options), None)
    if best is None:
        return
    own = [one for one in found.curves if one.cluster == best.offer.cluster]
    for one in own:
        _show_curve(console, one)
    others = [one for one in found.curves if one not in own]
    if others:
        words = ", ".join(
            f"{one.cluster} at {one.bend.num_devices:,}" if one.bend else f"{one.cluster} not" for one in others
        )
        console.print(f"other clusters bend: {words}", style="dim", markup=False)


def _show_curve(console: Console, one: Curve) -> None:
    what = "a batch that grows with them" if one.is_weak else "the same batch"
    console.print(f"\n{'weak' if one.is_weak else 'strong'} scaling on {one.cluster}: {what}", markup=False)
    made = table("", ">devices", ">step", ">tokens/s", ">speed-up", ">efficiency", ">added", "grew most")
    for point in one.points:
        grew = f"{PART_WORDS[point.grown_part]} +{point.grown_fraction:.0%}" if point.grown_fraction >= 0.005 else ""
        made.add_row(
            "bend" if point is one.bend else "", f"{point.num_devices:,}", duration(point.pace.step_seconds),
            f"{point.tokens_per_second:,.0f}", f"{point.speedup_factor:.2f}", f"{point.efficiency_fraction:.0%}",
            f"{point.marginal_fraction:.0%}", grew,
        )  # fmt: skip
    console.print(made)
    console.print(
        f"added: what each further device brings of what one before it brought (bend: below {BEND_FRACTION:.0%}); grew "
        "most: device time of a token, of the whole before",
        style="dim", markup=False,
    )  # fmt: skip


def _show_reasons(console: Console, found: CapacityAnswer) -> None:
    """Why offers are out, the commonest reasons first."""
    reasons: dict[str, int] = {}
    said = [_heads(one.shortfall) for one in found.ranking.options if one.shortfall]
    refused = [one.reason for one in found.ranking.refused]
    said += [_heads(reason) if reason.startswith("does not fit") else reason for reason in refused]
    said += [_heads(reason) for reason in found.question.setups.unused.values()]
    for reason in said:
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        console.print("\nout (offers times sizes):")
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1])[:MAX_REASONS]:
        console.print(f"  {number:>5,}  {reason}", markup=False)


def _heads(sentence: str) -> str:
    """What comes before the figures: `too slow: 93 days; too dear: 1.2 times` as `too slow; too dear`."""
    return "; ".join(part.partition(":")[0] for part in sentence.split("; "))


def _show_basis(console: Console, found: CapacityAnswer) -> None:
    """What was looked at, and where the figures come from."""
    fleet, setups = found.ranking.demand.fleet, found.question.setups
    console.print(
        f"\n{len(setups.offers):,} offers at {len(found.paces):,} sizes of clusters, {found.num_searched:,} of them "
        f"searched and the others remembered or alike, in {found.elapsed_seconds:.1f} s",
        style="dim", markup=False,
    )  # fmt: skip
    console.print(
        f"failures: {fleet.source}; prices, their dates and sources: `meshwise profiles show NAME`, or --json",
        style="dim", markup=False,
    )  # fmt: skip
