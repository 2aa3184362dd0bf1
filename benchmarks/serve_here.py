"""Predicted against measured on this machine: a small model served at several loads, by one rank, by two that split
each layer, and by two that share the layers out.

`python -m benchmarks.serve_here [tp1|tp2|pp2]` takes some four minutes each, in which nothing else should run.
"""

import sys

import numpy as np

from profiles import catalog
from profiles.model import TransformerShape
from simulator.serving.arrivals import lengths, poisson
from simulator.serving.requests import Requests
from validate.serving.compare import Server, serve_and_predict

SERVERS = {"tp1": {}, "tp2": {"tp": 2}, "pp2": {"pp": 2}}
LOADS = (0.3, 0.5, 0.7)
"""Of the rate at which requests are answered when all of them wait from the start."""
NUM_REQUESTS = 100
INPUT_TOKENS, OUTPUT_TOKENS, SPREAD = 128, 32, 0.5


def main() -> None:
    """Print the errors of each load."""
    model = catalog.model("gpt-20m")
    assert isinstance(model, TransformerShape)
    print(f"{'':8}{'load':>6}{'TTFT':>11}{'error':>8}{'TPOT':>11}{'error':>8}{'tokens/s':>10}{'error':>8}")
    for name in sys.argv[1:] or SERVERS:
        server = Server(model, **SERVERS[name])
        draw = np.random.default_rng(1)
        inputs, outputs = (lengths(mean, SPREAD, NUM_REQUESTS, draw) for mean in (INPUT_TOKENS, OUTPUT_TOKENS))
        at_once = serve_and_predict(server, [Requests(np.zeros(NUM_REQUESTS), inputs, outputs)])[0]
        most = at_once.measured.output_tokens_per_second / float(np.mean(outputs))
        loads = [Requests(poisson(load * most, NUM_REQUESTS, draw), inputs, outputs) for load in LOADS]
        for load, one in zip(LOADS, serve_and_predict(server, loads), strict=True):
            found = one.measured
            print(
                f"{name:<8}{load:>6.0%}{found.ttft_seconds:>9.3f} s{one.error('ttft_seconds'):>+8.1%}"
                f"{found.tpot_seconds:>9.4f} s{one.error('tpot_seconds'):>+8.1%}"
                f"{found.output_tokens_per_second:>10.1f}{one.error('output_tokens_per_second'):>+8.1%}"
            )


if __name__ == "__main__":
    main()
