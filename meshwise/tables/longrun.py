"""Weeks of a job as a table: where the time goes, by closed form and over played runs."""

from rich.console import Console

from meshwise.amounts import amount, long_time
from meshwise.longrun import LEVEL, LongRunAnswer
from meshwise.tables.parts import share, table
from planner.choose.explain import duration
from profiles.units import DAY, GIGA, TERA

PART_WORDS = {
    "useful": "steps that count",
    "checkpoint": "standing still for checkpoints",
    "lost": "work lost at interruptions",
    "restart": "restarts",
    "waiting": "waiting for nodes",
}


def long_run_words(found: LongRunAnswer) -> list[str]:
    """What was assumed of failures, repairs and checkpoints, one line each."""
    fleet, saves, nodes = found.fleet, found.saves, found.nodes
    how = "beside the steps" if saves.write_seconds else "while the job stands still"
    lines = [
        f"{found.horizon_seconds / DAY:g} days, failures as of {fleet.name} on {fleet.accelerator}: an interruption "
        f"every {long_time(found.stops.seconds_between)}, {long_time(found.stops.restart_seconds)} to restart, "
        f"{nodes.num_spares} spare nodes beside {nodes.num_nodes}, {long_time(nodes.repair_seconds)} to repair one",
        f"checkpoints of {found.checkpoint_bytes / TERA:.2f} TB at {found.storage_bytes_per_second / GIGA:,.0f} GB/s, "
        f"written {how}, every {long_time(saves.interval_seconds)} (best: {long_time(found.best_interval_seconds)})",
    ]
    if found.stops.manual_fraction:
        lines.append(
            f"{share(found.stops.manual_fraction)} of the restarts wait for a person: "
            f"{long_time(found.stops.manual_seconds)}"
        )
    if found.copies:
        lines.append(
            f"copies in the memory of peers every {long_time(found.copies.interval_seconds)}, "
            f"{long_time(found.copies.restart_seconds)} to restart from them"
        )
    if nodes.switch_fraction:
        lines.append(
            f"{share(nodes.switch_fraction)} of the interruptions are of a switch with {nodes.nodes_per_switch} nodes"
        )
    if fleet.unverified:
        lines.append(f"not checked against a source: {', '.join(fleet.unverified)}")
    return lines


def show_long_run(console: Console, found: LongRunAnswer, step_seconds: float, tokens_per_step: float) -> None:
    """What was assumed, the shares of the time, and what the job achieves over the days."""
    for line in long_run_words(found):
        console.print(line, markup=False)
    console.print()
    made = table(
        "share of the time",
        ">closed form" + (", storage alone" if found.copies else ""),
        ">played (95 %)",
        f">{LEVEL:.0%} of {len(found.runs)} runs",
    )
    for part, expected in found.expected.parts().items():
        mean, low, high = found.spread(part)
        closed = "-" if part == "waiting" else share(float(expected))
        made.add_row(
            PART_WORDS[part],
            closed,
            f"{share(mean)} ± {share(found.mean_error(part))}",
            f"{share(low)} .. {share(high)}",
        )
    console.print(made)
    mean, low, high = found.interruptions
    useful, least, most = (one * found.horizon_seconds / step_seconds for one in found.spread("useful"))
    console.print(f"\ninterruptions: {mean:,.0f} ({low:,.0f} .. {high:,.0f})", markup=False)
    console.print(
        f"steps of {duration(step_seconds)}: {useful:,.0f} ({least:,.0f} .. {most:,.0f}), "
        f"{amount(useful * tokens_per_step)} tokens",
        markup=False,
    )
