"""Every bar of serving, met or missed: how fast requests are played and deployments searched, and how accurate
predictions are.

`python -m benchmarks.serving [--trace TRACE.csv] [--published TABLE.csv] [--disaggregated TABLE.csv]
[--log LOG[=CLUSTER]]` prints them. A trace is played on 8 replicas, in a process of its own so that start-up counts.
Queues in theory are tests (`tests/test_serving_theory.py`); a server that really runs is
`python -m benchmarks.serve_here`.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks.serving_bars import Bar, disaggregated_bars, log_bars, published_bars
from benchmarks.serving_loads import deployment, made_up
from benchmarks.serving_plan import EXAMPLE
from meshwise.serving import jobfile, planning
from profiles.units import KIB, MIB
from simulator.serving.play import play
from simulator.serving.requests import Requests
from simulator.serving.spec import Deployment

REPEATS = 3
PLAYED, PLAYED_PREEMPTING, TRACE_SECONDS = 30_000.0, 10_000.0, 2.0
SEARCHED, SEARCH_SECONDS = 20_000.0, 30.0


def played_bar(name: str, requests: Requests, served: Deployment, least: float) -> Bar:
    """Requests per CPU second, median of some repeats."""
    taken = []
    for _ in range(REPEATS):
        begin = time.process_time()
        played = play(requests, [served])
        taken.append(time.process_time() - begin)
    words = f"requests/s, {name}, {played.num_preemptions.sum():,} preemptions"
    return Bar(words, len(requests) / median(taken), least, at_least=True)


def speed_bars() -> Iterator[Bar]:
    """By router, load and memory."""
    requests, busy = made_up(20_000, 40.0), made_up(20_000, 80.0)
    for router in ("round-robin", "least-loaded"):
        yield played_bar(f"8 replicas, {router}", requests, deployment(400_000, router=router), PLAYED)
    yield played_bar("8 busy replicas", busy, deployment(400_000), PLAYED)
    yield played_bar("memory short", busy, deployment(22_000), PLAYED_PREEMPTING)


def show_growth() -> None:
    """Seconds and memory by number of requests."""
    for count in (1_000, 10_000, 100_000, 1_000_000):
        begin = time.process_time()
        play(made_up(count, 40.0), [deployment(400_000)])
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MIB
        print(
            f"{count:10,} requests {time.process_time() - begin:8.2f} s   peak memory {peak_mib:6,.0f} MiB", flush=True
        )


def trace_bar(trace: Path) -> Bar:
    """A trace in a process of its own."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.serving_loads", str(trace)], check=True)
    return Bar(f"seconds, {trace.name} on 8 replicas, start-up included", time.perf_counter() - begin, TRACE_SECONDS)


def search_bars() -> Iterator[Bar]:
    """Deployments of one job, and how long their search takes, the best simulated."""
    begin = time.perf_counter()
    found = planning.best_plans(jobfile.read(EXAMPLE), simulates=True).found
    yield Bar("deployments searched", float(found.num_considered), SEARCHED, at_least=True)
    yield Bar("seconds of the search, the best simulated", time.perf_counter() - begin, SEARCH_SECONDS)


def main() -> None:
    """Print everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trace", "published", "disaggregated"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--log", action="append", default=[], metavar="LOG[=CLUSTER]")
    asked = parser.parse_args()
    parts = [speed_bars(), search_bars()]
    if asked.trace:
        parts.append(iter([trace_bar(asked.trace)]))
    if asked.published:
        parts.append(published_bars(asked.published))
    if asked.disaggregated:
        parts.append(disaggregated_bars(asked.disaggregated))
    for log in asked.log:
        path, _, cluster = log.partition("=")
        parts.append(log_bars(Path(path), cluster or None))
    for bar in chain.from_iterable(parts):
        print(bar, flush=True)
    show_growth()


if __name__ == "__main__":
    main()
