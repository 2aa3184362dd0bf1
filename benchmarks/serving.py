"""How fast requests are played: requests per CPU second, by load, and how time and memory grow with their number.

`python -m benchmarks.serving [TRACE.csv]` prints it; a trace is played on 8 replicas, in a process of its own so that
start-up counts. Prices are plain lines, so that only the simulator is timed.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from planner.serving import DecodeLine, IterationShape
from profiles.engine import EngineRecord
from profiles.units import KIB, MIB
from simulator.serving.arrivals import lengths, poisson
from simulator.serving.play import play
from simulator.serving.requests import Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from simulator.serving.traces import read_trace

ENGINE = EngineRecord(name="vllm-like", source="benchmarks/serving.py", library="vllm")
REPEATS = 3


class Lines:
    """Like an 8B model on an H100: 6 ms an iteration, 25 us a prompt token, 30 us a request, 40 ns a context token."""

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Prompts on top of the decode line."""
        line = self.decode_line(shape.num_decodes, shape.decode_context_tokens)
        return line.seconds(shape.decode_context_tokens) + 25e-6 * sum(shape.prefill_tokens)

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """One line for all contexts."""
        return DecodeLine(6e-3 + 30e-6 * num_decodes, 4e-8, float("inf"))


def deployment(kv_tokens: int, num_replicas: int = 8, router: str = "round-robin") -> Deployment:
    """Replicas with so much memory each."""
    return Deployment(PoolSpec(ReplicaSpec((Lines(),), kv_tokens, ENGINE), num_replicas, router))


def made_up(count: int, rate: float, seed: int = 0) -> Requests:
    """Poisson arrivals with lengths like those of conversations."""
    draw = np.random.default_rng(seed)
    return Requests(poisson(rate, count, draw), lengths(1150, 0.9, count, draw), lengths(211, 0.8, count, draw))


def show(name: str, requests: Requests, served: Deployment) -> None:
    """One line: requests per CPU second, median of some repeats."""
    taken = []
    for _ in range(REPEATS):
        begin = time.process_time()
        played = play(requests, [served])
        taken.append(time.process_time() - begin)
    seconds = median(taken)
    print(f"{name:44} {len(requests) / seconds:10,.0f} requests/s   {seconds:6.2f} s   "
          f"{played.num_preemptions.sum():7,} preemptions")  # fmt: skip


def main() -> None:
    """Print everything."""
    if sys.argv[1:2] == ["--replay"]:
        play(read_trace(Path(sys.argv[2])), [deployment(400_000)])
        return
    requests = made_up(20_000, 40.0)
    for router in ("round-robin", "least-loaded"):
        show(f"8 replicas, {router}", requests, deployment(400_000, router=router))
    show("8 replicas, busy (80 requests/s)", made_up(20_000, 80.0), deployment(400_000))
    show("8 replicas, memory short: preemption", made_up(20_000, 80.0), deployment(22_000))
    for count in (1_000, 10_000, 100_000, 1_000_000):
        begin = time.process_time()
        play(made_up(count, 40.0), [deployment(400_000)])
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MIB
        print(f"{count:10,} requests {time.process_time() - begin:8.2f} s   peak memory {peak_mib:6,.0f} MiB")
    if len(sys.argv) > 1:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmarks.serving", "--replay", sys.argv[1]], check=True)
        print(f"{sys.argv[1]} on 8 replicas, a process of its own: {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
