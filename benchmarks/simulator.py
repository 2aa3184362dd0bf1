"""Prints how long the simulator takes: `python -m benchmarks.simulator [--quick] [--plot FILE]`.

A deep pipeline at fixed prices, steps on networks (folded, rank by rank and with jitter, with the growth by ranks and
microbatches), and a month of failures; each with its seconds and the peak memory of the process so far. `--plot` draws
the growth.
"""

import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from planner.cost.goodput import Checkpoints, Interruptions
from planner.cost.phase import price_program
from planner.plan import Plan, Recompute
from planner.work.lower import lower
from profiles import catalog
from profiles.units import DAY, HOUR, KIB, MIB, MINUTE
from profiles.workload import TrainingJob
from simulator.disturbances import Disturbances
from simulator.engine import simulate
from simulator.faults import Nodes, PeerCopies, play_long_run
from simulator.network.build import build_network
from simulator.network.step import simulate_on_network

SHARDED = {"sequence_parallel": True, "zero_stage": 1}


Curve = tuple[list[int], list[float]]
"""What grows, and seconds."""


def main() -> None:
    """Print all figures, and draw the growth if asked to; with --quick without the runs of 1,024 ranks one by one."""
    print(f"{date.today()}, Python {platform.python_version()}, {platform.machine()}, one process\n")
    _deep_pipeline()
    print("\nfolded: one simulated rank for all that do the same")
    _step("llama3.1-405b", Plan(dp=128, tp=8, pp=16, **SHARDED), 2048, 8192)
    few = (2, 4, 8) if "--quick" in sys.argv else (2, 4, 8, 16)
    by_ranks, by_microbatches = {}, {}
    by_ranks["folded"] = _by_ranks((2, 8, 32, 128))
    by_microbatches["folded, 1,024 ranks"] = _by_microbatches(16, (8, 32, 128, 512))
    print("\nrank by rank, flows hashed onto parallel links of a network with half the uplinks")
    by_ranks["rank by rank"] = _by_ranks(few, unfolds=True)
    by_ranks["rank by rank, jitter 2%"] = _by_ranks(few, jitter=0.02)
    by_microbatches["rank by rank, 128 ranks"] = _by_microbatches(2, (8, 32, 128), unfolds=True)
    _month()
    if "--plot" in sys.argv:
        _draw(by_ranks, by_microbatches, sys.argv[sys.argv.index("--plot") + 1])


def _by_ranks(replicas: Sequence[int], *, unfolds: bool = False, jitter: float = 0.0) -> Curve:
    """Steps of 32 microbatches on more and more replicas of 64 ranks."""
    seconds = [
        _step("llama3-70b", Plan(dp=dp, tp=8, pp=8, **SHARDED), 32 * dp, 4096, unfolds=unfolds, jitter=jitter)
        for dp in replicas
    ]
    return [64 * dp for dp in replicas], seconds


def _by_microbatches(dp: int, numbers: Sequence[int], *, unfolds: bool = False) -> Curve:
    """Steps of more and more microbatches on `dp` replicas of 64 ranks."""
    plan = Plan(dp=dp, tp=8, pp=8, **SHARDED)
    return list(numbers), [_step("llama3-70b", plan, dp * number, 4096, unfolds=unfolds) for number in numbers]


def _draw(by_ranks: Mapping[str, Curve], by_microbatches: Mapping[str, Curve], path: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = (("simulated devices", by_ranks), ("microbatches", by_microbatches))
    for axes, (what, curves) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for name, (numbers, seconds) in curves.items():
            axes.loglog(numbers, seconds, "o-", label=name)
        axes.set_xlabel(what)
        axes.set_xticks(sorted({number for numbers, _ in curves.values() for number in numbers}))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
        axes.label_outer()
    figure.axes[0].set_ylabel("seconds to play a step")
    figure.savefig(path, dpi=100)
    print(f"\nwrote {path}")


def _deep_pipeline() -> None:
    """A trillion parameters on 64 stages with 512 microbatches, at fixed prices."""
    plan = Plan(dp=6, tp=8, pp=64, recompute=Recompute.FULL)
    cluster, stack = catalog.cluster("dgx-a100", 3072), catalog.software("megatron-core")
    job = TrainingJob(model=catalog.model("megatron-1T"), global_batch=512 * plan.dp, sequence_length=2048)
    began = time.perf_counter()
    program = lower(plan, job, stack)
    lowered = time.perf_counter()
    prices = price_program(program, cluster, stack)
    priced = time.perf_counter()
    simulate(program, prices, dp_overlap=stack.dp_overlap, pp_overlap=stack.pp_overlap,
             dp_contention_fraction=stack.dp_contention_fraction)  # fmt: skip
    played = time.perf_counter()
    num_actions = sum(len(actions) for actions in program.ranks)
    print(f"fixed prices: megatron-1T, {plan}, {program.num_microbatches} microbatches, {num_actions:,} actions")
    print(f"  lower {lowered - began:.3f} s, price {priced - lowered:.3f} s, play {played - priced:.3f} s "
          f"({num_actions / (played - priced):,.0f} actions a second), {_peak_mib():,.0f} MiB")  # fmt: skip


def _step(
    model: str, plan: Plan, global_batch: int, sequence_length: int, *, unfolds: bool = False, jitter: float = 0.0
) -> float:
    """Build the network, lower, price and play one step; print a line. The seconds it took."""
    one_by_one = unfolds or jitter > 0.0
    cluster = catalog.cluster("h100-oversubscribed" if one_by_one else "dgx-h100", plan.num_ranks)
    stack = catalog.software("megatron-core")
    job = TrainingJob(model=catalog.model(model), global_batch=global_batch, sequence_length=sequence_length)
    began = time.perf_counter()
    network = build_network(cluster, catalog.fabric("fat-tree-ecmp") if one_by_one else None)
    program = lower(plan, job, stack)
    found = simulate_on_network(
        program, price_program(program, cluster, stack), cluster, network,
        dp_overlap=stack.dp_overlap, pp_overlap=stack.pp_overlap, unfolds=unfolds,
        dp_contention_fraction=stack.dp_contention_fraction,
        disturbances=Disturbances(jitter_fraction=jitter), generator=np.random.default_rng(0),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    words = f", jitter {jitter:.0%}" if jitter else ""
    print(f"  {model:14s} {plan.num_ranks:6,d} ranks, {program.num_microbatches:4d} microbatches{words}: "
          f"{seconds:7.2f} s, {found.num_messages:8,d} messages, {_peak_mib():6,.0f} MiB")  # fmt: skip
    return seconds


def _month() -> None:
    """Thirty days of failures of 16,384 devices, as of Llama 3's fleet, with and without copies of peers."""
    stops, saves = Interruptions(3.09 * HOUR, 10 * MINUTE), Checkpoints(10 * MINUTE, 3.0)
    nodes = Nodes(2048, 102, 128, 0.78, 2 * DAY, True, 0.02, 4, 10 * MINUTE)
    print("\na month of failures of 16,384 devices")
    for copies in (None, PeerCopies(MINUTE, 0.0, 5 * MINUTE)):
        began = time.perf_counter()
        found = play_long_run(30 * DAY, stops, saves, nodes, np.random.default_rng(0), copies)
        seconds = time.perf_counter() - began
        how = "with copies of peers" if copies else "checkpoints on storage"
        print(f"  {how:24s} {seconds:7.4f} s, {found.num_interruptions} interruptions, "
              f"{found.goodput.useful_fraction:.1%} useful")  # fmt: skip


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else KIB) / MIB


if __name__ == "__main__":
    main()
