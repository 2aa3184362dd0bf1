"""The capacity answer of a serving job as tables: the hours, the offers, the best one in detail, and what is out."""

from collections import defaultdict

import numpy as np
from rich.console import Console
from rich.table import Table

from meshwise.serving.capacity.answering import ServingCapacityAnswer
from meshwise.serving.capacity.beside import Beside
from meshwise.tables.parts import share, table
from meshwise.tables.serving import show_variant
from meshwise.tables.serving_plans import plan_words
from planner.choose.explain import duration
from planner.choose.serving_capacity.option import AUTOSCALED, LEVEL, STATIC, FleetOption
from profiles.units import HOUR, KWH

MAX_NAMES = 6


def show_answer(console: Console, found: ServingCapacityAnswer, top: int) -> None:
    """The load, the offers by dollars, the best in detail, and why others are out."""
    day, days = found.day, found.day.num_hours / 24.0
    model = found.file.serving[0].model
    console.print(
        f"{model}: {day.requests_per_second.mean():,.3g} requests/s on average, {day.peak_requests_per_second:,.3g} in "
        f"the busiest of {day.num_hours} hour{'s' if day.num_hours > 1 else ''}; {day.input_tokens:,.0f} tokens in, "
        f"{day.output_tokens:,.0f} out",
        style="bold", markup=False,
    )  # fmt: skip
    show_variant(console, found.file.serving[0])
    if not found.options:
        console.print("no offer serves this load within its targets", style="bold")
        show_refused(console, found)
        return
    shown = found.by_offer[:top]
    console.print(_offers(found, shown, days))
    left = len(found.by_offer) - len(shown)
    if left > 0:
        console.print(f"{left} more offers cost more; --top shows them", style="dim")
    console.print(
        f"Dollars a day, with their {LEVEL:.0%} interval by the error of the prediction; static: all replicas at all "
        "hours; scaled: they come and go. Risk: of missing the targets in the busiest hour; played: requests within "
        "all targets when it was simulated. Of | the first runs prompts, the second decodes.",
        style="dim", markup=False,
    )  # fmt: skip
    if found.best is not None:
        console.print()
        show_best(console, found, found.best)
    else:
        console.print("the targets were missed in every busiest hour that was played", style="bold")
    if found.beside is not None:
        console.print()
        show_beside(console, found.beside)
    show_refused(console, found)


def _offers(found: ServingCapacityAnswer, shown: tuple[FleetOption, ...], days: float) -> Table:
    made = table(
        "offer", "in the busiest hour", ">$ a day", ">interval", ">static", ">scaled", ">$/M out", ">risk", ">played"
    )
    for one in shown:
        ways = found.of(one.lines[0].offer)
        costs = [f"{ways[how].dollars / days:,.0f}" if how in ways else "-" for how in (STATIC, AUTOSCALED)]
        played = found.played(one)
        share_within = "-" if played is None else share(played.figures.attained_fraction.value)
        made.add_row(
            one.offer.name, _kind(one), f"{one.dollars / days:,.0f}",
            f"{one.low_dollars / days:,.0f}-{one.high_dollars / days:,.0f}", *costs,
            f"{one.dollars_per_million_output_tokens:,.2f}", share(one.risk_fraction),
            share_within + (" MISSED" if played is not None and not played.is_met else ""),
        )  # fmt: skip
    return made


def _kind(one: FleetOption) -> str:
    """Replicas of each kind with their degrees, their weights, and how they are paid."""
    words = []
    for number, each in zip(one.peak_counts, one.deployment.replicas, strict=True):
        pool = each.plan.decode
        degrees = (("tp", pool.tp), ("pp", pool.pp), ("ep", pool.ep), ("dp", pool.attention_dp))
        words.append(f"{number} x " + (" ".join(f"{name} {value}" for name, value in degrees if value > 1) or "tp 1"))
    return f"{' | '.join(words)}, {one.deployment.replicas[-1].plan.weights}; {one.how}"


def show_best(console: Console, found: ServingCapacityAnswer, one: FleetOption) -> None:
    """Hours, bill and simulated percentiles of one option."""
    plan = one.deployment.plan(one.peak_counts)
    console.print(f"best: {one.offer.name}, {one.how}", style="bold", markup=False)
    for line in one.lines:
        console.print(
            f"  {line.offer.name}: {line.devices.min():,.0f} to {line.devices.max():,.0f} devices, "
            f"{line.devices.sum() / found.day.num_hours * 24.0:,.0f} device-hours a day",
            markup=False,
        )
    console.print(f"  in the busiest hour {plan_words(plan)}", markup=False)
    console.print("  replicas by hour: " + " | ".join(_hours(numbers) for numbers in one.num_replicas), markup=False)
    days = found.day.num_hours / 24.0
    parts = {name: dollars for name, dollars in one.bill.parts().items() if dollars}
    if one.bill.energy_joules:
        energy, carbon = one.bill.energy_joules / days / KWH, one.bill.carbon_kilograms / days
        console.print(f"  energy a day: {energy:,.0f} kWh, {carbon:,.0f} kg CO2", markup=False)
    console.print(
        "  bill a day: " + ", ".join(f"{name} ${dollars / days:,.2f}" for name, dollars in parts.items()), markup=False
    )
    played = found.played(one)
    if played is not None:
        figures = played.figures
        console.print(
            f"  busiest hour played, {figures.num_requests:,} requests: first token p50 "
            f"{duration(figures.ttft_seconds.percentiles[50].value)}, p99 "
            f"{duration(figures.ttft_seconds.percentiles[99].value)}; per token p50 "
            f"{duration(figures.tpot_seconds.percentiles[50].value)}, p99 "
            f"{duration(figures.tpot_seconds.percentiles[99].value)}; "
            f"{share(figures.attained_fraction.value)} within all targets",
            markup=False,
        )
    notes = sorted({note for line in one.lines for note in _doubts(found, line.offer.name)})
    for note in notes:
        console.print(f"  {note}", style="dim", markup=False)
    if plan.weights not in ("bf16", "fp16"):
        console.print(
            f"  Weights in {plan.weights} change answers: evaluate the checkpoint before it serves.", style="dim"
        )


def _doubts(found: ServingCapacityAnswer, name: str) -> list[str]:
    offer = next(line.offer for one in found.options for line in one.lines if line.offer.name == name)
    notes = [f"{offer.name}: price of {offer.as_of or 'no stated date'}; {offer.source}"]
    return notes + [f"{offer.name}: recalled, not read from a source: {', '.join(offer.unverified)}"] * bool(
        offer.unverified
    )


def _hours(numbers: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:
    return " ".join(f"{number:.0f}" for number in numbers)


def show_refused(console: Console, found: ServingCapacityAnswer) -> None:
    """Reasons with the offers they put out."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in found.refused.items():
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        console.print(f"out: {', '.join(names[:MAX_NAMES])}{more}: {reason}", style="dim", markup=False)


def show_beside(console: Console, found: Beside) -> None:
    """Training on what serving leaves, against a fleet of its own."""
    shared = found.shared
    console.print(f"training beside serving: {found.num_devices:,} devices of {found.fleet.offer.name}", style="bold")
    console.print(f"  left by hour: {_hours(found.free_devices)}", markup=False)
    console.print(f"  training on: {_hours(shared.devices)}", markup=False)
    if not shared.tokens_per_day:
        console.print("  serving leaves no hour in which the job fits", markup=False)
        return
    hours = shared.resize_seconds / HOUR
    console.print(
        f"  {shared.tokens_per_day:,.3g} tokens a day, {shared.num_changes} changes of size a cycle ({hours:.2g} hours "
        f"standing still): {found.tokens:,.3g} tokens in {found.days:,.1f} days; the fleet costs ${found.dollars:,.0f}",
        markup=False,
    )
    if found.own_devices:
        saved = found.two_fleets_dollars - found.dollars
        words = f"saves ${saved:,.0f}" if saved >= 0.0 else f"costs ${-saved:,.0f} more"
        console.print(
            f"  two fleets: {found.own_devices:,} devices for training as fast, and serving in its cheapest way on "
            f"that offer: ${found.two_fleets_dollars:,.0f}; sharing {words}",
            markup=False,
        )
