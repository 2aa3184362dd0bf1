"""Loads for timing the simulator of serving: prices are plain lines, so that nothing else is timed.

`python -m benchmarks.serving_loads TRACE.csv` plays a trace on 8 replicas and prints nothing.
"""

import sys
from pathlib import Path

import numpy as np

from planner.serving import DecodeLine, IterationShape
from profiles.engine import EngineRecord
from simulator.serving.arrivals import lengths, poisson
from simulator.serving.play import play
from simulator.serving.requests import Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from simulator.serving.traces import read_trace

ENGINE = EngineRecord(name="vllm-like", source="benchmarks/serving.py", library="vllm")


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


if __name__ == "__main__":
    play(read_trace(Path(sys.argv[1])), [deployment(400_000)])
