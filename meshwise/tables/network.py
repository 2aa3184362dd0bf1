"""What a network does to a step: messages by cause of their delay, what disturbs it, and the busiest links."""

import numpy as np
from rich.console import Console

from meshwise.draws import mean_error
from meshwise.onnetwork import OnNetwork
from meshwise.tables.parts import share, table
from planner.choose.explain import PART_WORDS, duration

_NUM_LINKS = 3


def show_network(console: Console, shared: OnNetwork) -> None:
    """Tables under those of the simulated step."""
    step = shared.step
    rank = step.simulation.busiest_rank
    simulated = step.folding.num_lanes * step.folding.plan.pp
    console.print(
        f"\n{simulated:,} simulated ranks for {step.network.num_devices:,} devices, {step.num_messages:,} messages "
        f"over {len(step.network.links):,} links",
        markup=False,
    )
    if step.delays[rank]:
        made = table("messages of the busiest rank", ">alone", ">sharing links", ">waiting for others")
        for part, seconds in step.delays[rank].items():
            made.add_row(PART_WORDS.get(part, part), *(_time(seconds[cause]) for cause in
                                                       ("alone", "contention", "waiting")))  # fmt: skip
        console.print(made)
    if shared.undisturbed is not None:
        _show_disturbed(console, shared)
    if shared.run_seconds:
        low, high = np.quantile(shared.run_seconds, [0.1, 0.9])
        console.print(
            f"{len(shared.run_seconds)} draws of the step: {duration(float(np.mean(shared.run_seconds)))} ± "
            f"{duration(mean_error(shared.run_seconds))} (95 % of the mean), 80 % between {duration(float(low))} and "
            f"{duration(float(high))}",
            markup=False,
        )
    busiest = ", ".join(f"{name} {share(busy)}" for name, busy in step.busiest_links(_NUM_LINKS))
    console.print(f"busiest links, as a share of the step: {busiest or 'none'}", markup=False)


def _show_disturbed(console: Console, shared: OnNetwork) -> None:
    """The parts of the step with and without what was asked to disturb it."""
    assert shared.undisturbed is not None
    before, after = (step.mean_parts() for step in (shared.undisturbed, shared.step))
    made = table("what is slow or broken costs, mean of all devices", ">without", ">with", ">change")
    for part, seconds in before.items():
        if seconds > 0.0 or after[part] > 0.0:
            made.add_row(PART_WORDS.get(part, part), _time(seconds), _time(after[part]), _signed(after[part] - seconds))
    total = shared.undisturbed.simulation.step_seconds, shared.step.simulation.step_seconds
    made.add_row("step", _time(total[0]), _time(total[1]), _signed(total[1] - total[0]), style="bold")
    console.print(made)


def _time(seconds: float) -> str:
    return duration(seconds) if seconds > 1e-9 else "-"


def _signed(seconds: float) -> str:
    return "-" if abs(seconds) < 1e-9 else f"{'+' if seconds > 0 else '-'}{duration(abs(seconds))}"
