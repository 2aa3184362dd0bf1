"""Prints how long a deep pipeline takes to simulate: `python -m benchmarks.simulator`.

A trillion parameters on 64 stages with 512 microbatches: 65,536 forwards and backwards and the transfers between
them, lowered, priced and played on one core.
"""

import platform
import resource
import sys
import time
from datetime import date

from planner.cost.phase import price_program
from planner.plan import Plan, Recompute
from planner.work.lower import lower
from profiles import catalog
from profiles.units import KIB, MIB
from profiles.workload import TrainingJob
from simulator.engine import simulate

MODEL = "megatron-1T"
PLAN = Plan(dp=6, tp=8, pp=64, recompute=Recompute.FULL)
NUM_DEVICES = 3072


def main() -> None:
    """Simulate the largest run of the paper and print the seconds of each stage of the work."""
    cluster = catalog.cluster("dgx-a100", NUM_DEVICES)
    stack = catalog.software("megatron-core")
    job = TrainingJob(model=catalog.model(MODEL), global_batch=512 * PLAN.dp, sequence_length=2048)
    began = time.perf_counter()
    program = lower(PLAN, job, stack)
    lowered = time.perf_counter()
    prices = price_program(program, cluster, stack)
    priced = time.perf_counter()
    simulation = simulate(
        program,
        prices,
        dp_overlap=stack.dp_overlap,
        pp_overlap=stack.pp_overlap,
        dp_contention_fraction=stack.dp_contention_fraction,
    )
    played = time.perf_counter()
    num_actions = sum(len(actions) for actions in program.ranks)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else KIB)
    print(f"{date.today()}, Python {platform.python_version()}, {platform.machine()}, one process\n")
    print(f"program   {PLAN}, {program.num_microbatches} microbatches, {num_actions:,} actions")
    print(f"lower     {lowered - began:8.3f} s")
    print(f"price     {priced - lowered:8.3f} s")
    print(f"play      {played - priced:8.3f} s   {num_actions / (played - priced):,.0f} actions a second")
    print(f"memory    {peak_bytes / MIB:8.0f} MiB at the peak of the process")
    print(f"step      {simulation.step_seconds:8.3f} s simulated")
    for part, seconds in simulation.breakdown.parts().items():
        if seconds > 0.0:
            print(f"  {part:<10s}{seconds:8.3f} s")


if __name__ == "__main__":
    main()
