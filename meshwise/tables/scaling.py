"""What more devices buy: the best plan on each number of them."""

from collections.abc import Sequence

from rich.console import Console

from meshwise.scaling import Scale
from meshwise.tables.parts import table
from planner.choose.explain import duration
from planner.cost.metrics import mfu, tokens_per_second
from profiles.model import LayerList
from profiles.units import GIB


def show_scales(console: Console, scales: Sequence[Scale]) -> None:
    """One row a number of devices; `*` marks those that no other beats in time, dollars and headroom.

    Without a price, device-hours stand for dollars.
    """
    listed = isinstance(scales[0].question.job.model, LayerList)
    items = "samples" if listed else "tokens"
    priced = any(one.dollars_per_tera is not None for one in scales)
    cost = "dollars" if priced else "device-hours"
    made = table(
        "", ">devices", ">step", f">{items}/s", ">MFU", f">{cost}\na T{items[:-1]}", ">headroom\nGiB",
        "best plan by estimate",
    )  # fmt: skip
    for one in scales:
        if one.best is None:
            made.add_row("", f"{one.num_devices:,}", *[""] * 5, "no plan fits")
            continue
        step, asked = float(one.best.step_seconds), one.question
        made.add_row(
            "*" if one.on_front else "", f"{one.num_devices:,}", duration(step),
            f"{tokens_per_second(step, asked.job):,.0f}", f"{mfu(step, asked.job, asked.cluster):.1%}",
            f"{one.dollars_per_tera if priced else one.device_hours_per_tera:,.0f}",
            f"{(one.headroom_bytes or 0.0) / GIB:.1f}", str(one.best.plan),
        )  # fmt: skip
    console.print()
    console.print(made)
    console.print(
        f"* no other number of devices is at least as good in step time, {cost} and headroom"
        + ("" if priced else "; device-hours stand for money: give --offer or --price"),
        style="dim",
    )
