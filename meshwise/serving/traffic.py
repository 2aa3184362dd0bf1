"""The requests that a `[load]` table names, by seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meshwise.serving.jobfile import LoadTable, ServingFile
from simulator.serving.arrivals import ARRIVAL_LAWS, lengths, uniform_lengths
from simulator.serving.chains import Step, chained
from simulator.serving.requests import ClosedLoop, Ints, Requests
from simulator.serving.traces import read_trace

REQUESTS_A_CLIENT = 10
"""Length of a closed loop where none is stated, as benchmarks of engines have it."""
DEFAULT_REQUESTS = 2000
WHO_SAYS_WHEN = "state requests_per_second or concurrency, or let `meshwise plan` find the highest rate"


def closed_loop(load: LoadTable) -> ClosedLoop | None:
    """The closed loop of `load`, if it is one."""
    if load.concurrency is None:
        return None
    return ClosedLoop(load.concurrency, load.ramp_seconds, load.think_seconds, load.warmup)


def traffic(load: LoadTable, seed: int, *, needs_times: bool = True) -> Requests:
    """The requests of one run. Raises ValueError for a trace that cannot be read, and, where it `needs_times`, for a
    load that does not say when requests arrive."""
    draw = np.random.default_rng(seed)
    is_timed = not needs_times or load.requests_per_second is not None or load.concurrency is not None
    if load.trace is not None:
        requests = read_trace(Path(load.trace), load.requests)
        count = len(requests)
        if not is_timed and requests.arrival_seconds[-1] <= 0.0 and count > 1:
            raise ValueError(f"trace: {load.trace} has no arrival times; {WHO_SAYS_WHEN}")
    elif not is_timed:
        raise ValueError(f"load: it does not say when requests arrive; {WHO_SAYS_WHEN}")
    else:
        count = load.requests or (load.warmup + REQUESTS_A_CLIENT * load.concurrency if load.concurrency else 0)
        count = count or DEFAULT_REQUESTS
        assert load.input_tokens is not None
        assert load.output_tokens is not None
        requests = Requests(
            np.zeros(count),
            _lengths(load, load.input_tokens, load.input_spread_fraction, count, draw),
            _lengths(load, load.output_tokens, load.output_spread_fraction, count, draw),
        )
    changes: dict[str, Any] = {}
    if load.requests_per_second is not None:
        named = {"variation_factor": load.variation_factor, "peak_ratio": load.peak_ratio,
                 "period_seconds": load.period_seconds}  # fmt: skip
        options = {name: value for name, value in named.items() if value is not None}
        changes["arrival_seconds"] = ARRIVAL_LAWS[load.arrivals](load.requests_per_second, count, draw, **options)
    if load.cached_fraction and requests.prefixes is None:
        changes["cached_tokens"] = (load.cached_fraction * requests.input_tokens).astype(np.int64)
    return replace(requests, **changes)


def with_tasks(questions: Requests, file: ServingFile, seed: int) -> Requests:
    """`questions` with every step of their tasks, which become their tenants.

    A question is of the task that its tenant names, or else of one drawn by the shares.
    """
    names = [task.name for task in file.task]
    draw = np.random.default_rng((seed, 1))
    if set(questions.tenants) <= set(names):
        task = np.array([names.index(tenant) for tenant in questions.tenants])[questions.tenant_index]
    else:
        shares = np.array([task.share for task in file.task])
        task = draw.choice(len(names), len(questions), p=shares / shares.sum())
    served = [table.name or table.model for table in file.serving]
    tasks = [
        [
            Step(served.index(step.serving), step.takes, step.added_tokens, step.output_tokens,
                 step.output_spread_fraction)
            for step in one.step
        ]
        for one in file.task
    ]  # fmt: skip
    return chained(replace(questions, tenant=task, tenants=tuple(names)), task, tasks, draw)


def _lengths(load: LoadTable, tokens: int, spread_fraction: float, count: int, draw: np.random.Generator) -> Ints:
    if load.shortest_fraction is not None:
        return uniform_lengths(load.shortest_fraction, tokens, count, draw)
    return lengths(float(tokens), spread_fraction, count, draw)
