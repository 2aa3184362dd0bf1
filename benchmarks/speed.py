"""How fast: full estimates a second on a grid of a million, searches up to the exhaustive one, start-up.

`python -m benchmarks.speed`; one core. Estimates and searches count processor time, commands wall time.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.choose.knobs import divisors
from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.plan import SCHEDULE_NAMES, PlanGrid, Recompute
from profiles import catalog
from profiles.units import GIGA, KIB
from profiles.workload import TrainingJob

GLOBAL_BATCH = 1536
SEARCH = ("plan", "--model", "gpt3-175B", "--cluster", "dgx-a100", "--devices", "1024")


def million() -> PlanGrid:
    """A million different splits of GPT-3 175B: degrees, microbatches, schedules, recomputation, sharding."""
    grid = PlanGrid.product(
        dp=divisors(GLOBAL_BATCH),
        tp=[1, 2, 4, 8, 16],
        pp=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48],
        cp=[1, 2, 4],
        vp=[1, 2, 3, 4, 6],
        micro_batch=list(range(1, 17)),
        schedule=["1f1b"],
        recompute=list(Recompute),
        sequence_parallel=[0, 1],
        zero_stage=[0, 1],
    )
    codes = np.where(grid.vp > 1, SCHEDULE_NAMES.index("interleaved"), grid.schedule)
    columns = {name: getattr(grid, name) for name in PlanGrid.__dataclass_fields__} | {"schedule": codes}
    grid = PlanGrid(**columns)
    num_microbatches = grid.num_microbatches(GLOBAL_BATCH)
    runs = (num_microbatches >= 1) & ((grid.vp == 1) | (num_microbatches % grid.pp == 0))
    found = grid.take(np.flatnonzero(runs)[:1_000_000])
    assert len(found) == 1_000_000
    return found


def estimates_per_second(runs: int = 5) -> float:
    """Median over `runs` of full estimates (time by part and memory by part) a second."""
    grid = million()
    job = TrainingJob(model=catalog.model("gpt3-175B"), global_batch=GLOBAL_BATCH, sequence_length=2048)
    cluster, stack = catalog.cluster("dgx-a100", 1024), catalog.software("megatron-core")

    def run() -> None:
        priced = estimate(grid, job, cluster, stack)
        assert np.all(np.isfinite(priced.step_seconds + priced.memory.peak_bytes))

    return len(grid) / median_seconds(run, runs, time.process_time)


def shell_seconds(arguments: tuple[str, ...], runs: int = 5) -> float:
    """Median wall seconds of `meshwise ARGUMENTS` in a fresh process."""
    command = (sys.executable, "-m", "meshwise", *arguments)
    return median_seconds(lambda: subprocess.run(command, check=True, capture_output=True), runs)


def median_seconds(run: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of `run` on `clock`, after one uncounted call."""
    run()
    seconds = []
    for _ in range(runs):
        started = clock()
        run()
        seconds.append(clock() - started)
    return statistics.median(seconds)


@dataclass(frozen=True, slots=True)
class Searched:
    """What an exhaustive search cost."""

    num_legal: int
    num_estimated: int
    seconds: float


def exhaustive_search(num_devices: int) -> Searched:
    """Processor seconds of every legal plan of GPT-3 175B on so many A100."""
    job = TrainingJob(model=catalog.model("gpt3-175B"), global_batch=1536, sequence_length=2048)
    cluster, stack = catalog.cluster("dgx-a100", num_devices), catalog.software("megatron-core")
    started = time.process_time()
    found = search(job, cluster, stack, exhaustive=True)
    return Searched(found.num_legal, found.num_estimated, time.process_time() - started)


def print_curve() -> None:
    """One line a size, up to the largest, and the memory that the process needed for all of them."""
    print("exhaustive search of GPT-3 175B, batch 1,536, every choice of every option:")
    print("devices   legal plans   priced in full   seconds   legal plans a second")
    for num_devices in (64, 128, 256, 512, 1024):
        found = exhaustive_search(num_devices)
        rate = found.num_legal / found.seconds
        print(f"{num_devices:>7,}{found.num_legal:>14,}{found.num_estimated:>17,}{found.seconds:>10.1f}{rate:>23,.0f}")
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    print(
        f"asked of the last: more than 10,000,000 legal plans in 20 s and 2 GB; memory used {peak_bytes / GIGA:.2f} GB"
    )


def main() -> None:
    """Print the table."""
    print(f"full estimates per second, grid of 1,000,000: {estimates_per_second():>12,.0f}   (asked: 1,000,000)")
    print(f"meshwise {' '.join(SEARCH)}: {shell_seconds(SEARCH):.2f} s   (asked: 5 s)")
    print_curve()
    print(f"meshwise --help: {shell_seconds(('--help',)):.2f} s   (asked: 0.5 s)")


if __name__ == "__main__":
    main()
