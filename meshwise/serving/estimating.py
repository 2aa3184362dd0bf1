"""`estimate` of a serving job: its load in closed form."""

import math
from dataclasses import dataclass

from meshwise.serving import playing
from meshwise.serving.jobfile import ServingFile, TargetsTable
from meshwise.serving.traffic import WHO_SAYS_WHEN, traffic
from planner.cost.serving import PriceBook
from planner.cost.serving_load import (
    Equilibrium,
    Lengths,
    closed_loop,
    most_requests_per_second,
    open_loop,
    replica_curve,
)
from planner.serving import Pool
from simulator.serving.requests import Ints, Requests

LEAST_TAIL_FRACTION = 1e-3
"""Of requests, that tails leave out where every one of them is to meet the targets."""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """A load as closed forms see it."""

    lengths: Lengths
    requests_per_second: float | None
    """None: a closed loop, or lengths alone."""
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class ServingEstimate:
    """One model's deployment under the load, in closed form."""

    served: playing.Served
    load: LoadFigures
    ttft_seconds: float
    ttft_tail_seconds: float
    tpot_seconds: float
    tpot_tail_seconds: float
    itl_tail_seconds: float
    e2e_seconds: float
    output_tokens_per_second: float
    num_running: float
    """Requests under way past their prompts, of all replicas together."""
    most_requests_per_second: float
    """Under the job's targets, of all replicas together; 0 where an idle one misses them."""
    is_stable: bool


def load_figures(file: ServingFile) -> LoadFigures:
    """Means of the requests that the first seed draws, and their rate; raises ValueError for tasks of several steps."""
    if file.task:
        raise ValueError("task: closed forms and searches are of one model and one step; use `meshwise simulate`")
    requests = traffic(file.load, file.load.seed, needs_times=False)
    lengths = lengths_of(requests.input_tokens, requests.output_tokens, file.targets, _cached_tokens(requests))
    return LoadFigures(lengths, _rate(file, requests), file.load.concurrency)


def _cached_tokens(requests: Requests) -> float:
    """Of a prompt on average, as if nothing were ever dropped and every replica knew what any other does."""
    if requests.cached_tokens is not None:
        return float(requests.cached_tokens.mean())
    return 0.0 if requests.prefixes is None else float(requests.prefixes.repeated_tokens.mean())


def lengths_of(inputs: Ints, outputs: Ints, targets: TargetsTable, cached_tokens: float = 0.0) -> Lengths:
    """As closed forms take them; tails leave out the share of requests that may miss the targets."""
    tail = min(max(1.0 - targets.attained_fraction, LEAST_TAIL_FRACTION), 0.5)
    return Lengths(
        float(inputs.mean()), float(outputs.mean()), cached_tokens, float(inputs.std() / inputs.mean()),
        float(outputs.std() / outputs.mean()), tail,
    )  # fmt: skip


def _rate(file: ServingFile, requests: Requests) -> float | None:
    if file.load.concurrency is not None:
        return None
    if file.load.requests_per_second is not None:
        return file.load.requests_per_second
    seconds = float(requests.arrival_seconds[-1] - requests.arrival_seconds[0])
    return (len(requests) - 1) / seconds if seconds > 0.0 else None


def estimate(file: ServingFile) -> tuple[ServingEstimate, ...]:
    """Every model of the job under its load (the whole of it for each model), in closed form."""
    load, book = load_figures(file), PriceBook()
    if load.requests_per_second is None and load.concurrency is None:
        raise ValueError(f"load: it does not say when requests arrive; {WHO_SAYS_WHEN}")
    return tuple(_estimated(file, playing.served_of(table, file.job.cluster, book), load) for table in file.serving)


def _estimated(file: ServingFile, served: playing.Served, load: LoadFigures) -> ServingEstimate:
    plan, limits = served.plan, file.targets
    targets = (limits.ttft_seconds or math.inf, limits.tpot_seconds or math.inf, limits.e2e_seconds or math.inf)
    pools = list(zip(([plan.prefill] if plan.prefill else []) + [plan.decode], served.deployment.pools, strict=True))
    results: list[tuple[Pool, Equilibrium, float]] = []
    for pool, spec in pools:
        first_only = len(pools) == 2 and pool is plan.prefill
        lengths = load.lengths.of_prompts if first_only else load.lengths
        replica = spec.replica
        curve = replica_curve(
            replica.stages[0], len(replica.stages), float(replica.kv_tokens), replica.token_budget,
            replica.max_sequences, served.engine, lengths, runs_prompts=first_only or len(pools) == 1,
            tokens_per_iteration=1.0 if first_only else plan.tokens_per_iteration, num_groups=pool.attention_dp,
        )  # fmt: skip
        if load.concurrency is not None:
            result = closed_loop(curve, load.concurrency / pool.replicas)
        else:
            result = open_loop(curve, (load.requests_per_second or 0.0) / pool.replicas)
        of_pool = (targets[0], math.inf, math.inf) if first_only else targets
        results.append((pool, result, pool.replicas * most_requests_per_second(curve, *of_pool)))
    (_, front, _), (pool, rest, _) = results[0], results[-1]
    ttft, ttft_tail = float(front.ttft_seconds), float(front.ttft_tail_seconds)
    if served.deployment.transfer is not None:
        handed = served.engine.handover_seconds + served.deployment.transfer.seconds(load.lengths.input_tokens)
        ttft, ttft_tail = ttft + handed + float(rest.ttft_seconds), ttft_tail + handed + float(rest.ttft_tail_seconds)
    last = float(rest.tpot_seconds) * (load.lengths.output_tokens - 1.0)
    return ServingEstimate(
        served, load, ttft, ttft_tail, float(rest.tpot_seconds), float(rest.tpot_tail_seconds),
        float(rest.itl_tail_seconds),
        ttft + last, pool.replicas * float(rest.output_tokens_per_second),
        pool.replicas * float(rest.num_running), min(most for _, _, most in results),
        bool(front.is_stable) and bool(rest.is_stable),
    )  # fmt: skip
