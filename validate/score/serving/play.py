"""Plays the protocol of a published serving benchmark on the prices of its setting, and takes the published figures."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.kv import ServingMemory, serving_memory
from planner.cost.serving import PriceBook, served_shard
from planner.serving import IterationShape, Pool, ServingPlan, decode_run_seconds
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from simulator.serving.play import play
from simulator.serving.requests import ClosedLoop, Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec, Speculation, Transfer
from validate.runs.resolve import Unmodelled
from validate.score.serving.protocol import num_offline_requests

if TYPE_CHECKING:
    from validate.score.serving.resolve import ServedSetting

_ROUTER = "round-robin"
"""Of NVIDIA Dynamo, which stands before the pools of published runs, unless told otherwise [ai-dynamo/dynamo,
docs/components/router: --router-mode]: a request may wait for a worker while another is free."""
_IN_PROCESS = {
    "front_end_seconds": 0.0, "front_end_seconds_per_request": 0.0, "output_seconds_per_token": 0.0,
    "chunks_prefill": True,
}  # fmt: skip
"""An offline run hands its requests to the engine directly: no server takes them in, and nobody streams. Prompts
are cut [NVIDIA/TensorRT-LLM, tensorrt_llm/bench/benchmark/throughput.py: --enable_chunked_context is the default]."""


@dataclass(frozen=True, slots=True)
class ServedFigures:
    """What a serving benchmark publishes; None where its protocol has no such figure. Times are means."""

    ttft_seconds: float | None
    tpot_seconds: float | None
    e2e_seconds: float | None
    output_tokens_per_second: float | None

    def by_name(self) -> dict[str, float | None]:
        """ "ttft", "tpot", "e2e" and "throughput"."""
        return {
            "ttft": self.ttft_seconds, "tpot": self.tpot_seconds,
            "e2e": self.e2e_seconds, "throughput": self.output_tokens_per_second,
        }  # fmt: skip


def predict(setting: "ServedSetting", book: PriceBook, seed: int = 0) -> ServedFigures:
    """The figures that the row's benchmark would publish; raises Unmodelled where the model does not fit."""
    plan = setting.plan
    replica, memory = replica_of(setting.model, setting.cluster, plan, plan.decode, setting.engine, book)
    deployment = Deployment(PoolSpec(replica, plan.decode.replicas, _ROUTER))
    if plan.prefill:
        prompts, held = replica_of(setting.model, setting.cluster, plan, plan.prefill, setting.engine, book)
        tier = setting.cluster.tiers[-1]
        moved = Transfer(held.kv_bytes_per_token, tier.usable_bytes_per_second, tier.latency_seconds)
        deployment = replace(deployment, prefill=PoolSpec(prompts, plan.prefill.replicas, _ROUTER), transfer=moved)
    row = setting.row
    longest = row.input_tokens + row.output_tokens
    if memory.num_kv_tokens < longest:
        raise Unmodelled("weights leave no room for one request's keys and values")
    match setting.protocol.kind:
        case "static batch":
            return _static_batch(setting, replica)
        case "offline":
            slots = min(memory.num_kv_tokens / longest, float(plan.decode.max_sequences))
            count = num_offline_requests(row.input_tokens, row.output_tokens, slots)
            requests = _requests(setting, count, 1.0, seed)
            return _offline(requests, replace(replica, engine=replica.engine.model_copy(update=_IN_PROCESS)))
    return _closed_loop(setting, deployment, seed)


def replica_of(
    model: TransformerShape, cluster: Cluster, plan: ServingPlan, pool: Pool, engine: EngineRecord, book: PriceBook
) -> tuple[ReplicaSpec, ServingMemory]:
    """One replica of `pool` with its prices, and its memory; raises ValueError where a form has no kernels."""
    shard = served_shard(plan, pool, engine)
    memory = serving_memory(model, shard, cluster.accelerator.memory_bytes, engine)
    prices, speculation = book.prices(model, shard, cluster, engine), None
    if pool is plan.prefill:
        prices = prices.of_prompts_alone(engine)
    elif plan.draft_tokens:
        prices = prices.guessing(plan.draft_tokens)
        speculation = Speculation(plan.draft_tokens, plan.acceptance_fraction)
    tokens = max(int(memory.num_kv_tokens), engine.block_tokens)
    groups = pool.attention_dp
    spec = ReplicaSpec(
        stages=(prices,) * pool.pp, kv_tokens=tokens, engine=engine, token_budget=pool.token_budget * groups,
        max_sequences=pool.max_sequences, speculation=speculation, groups=groups,
    )  # fmt: skip
    return spec, memory


def _requests(setting: "ServedSetting", count: int, shortest: float, seed: int) -> Requests:
    """`count` requests whose lengths are uniform between `shortest` of the nominal ones and all of them."""
    draw = np.random.default_rng(seed)
    nominal = (setting.row.input_tokens, setting.row.output_tokens)
    inputs, outputs = (np.rint(length * draw.uniform(shortest, 1.0, count)).astype(np.int64) for length in nominal)
    return Requests(np.zeros(count), np.maximum(inputs, 1), np.maximum(outputs, 1))


def _closed_loop(setting: "ServedSetting", deployment: Deployment, seed: int) -> ServedFigures:
    protocol, clients = setting.protocol, setting.row.concurrency or 1
    requests = _requests(setting, protocol.prompts_per_client * clients, protocol.shortest_fraction, seed)
    loop = ClosedLoop(clients + protocol.extra_clients)
    played = play(requests, [deployment], closed_loop=loop)
    counted = played.counted
    tokens = float(requests.output_tokens[counted].sum())
    if protocol.skips_first_wave:
        counted[:clients] = False
    return ServedFigures(
        float(played.ttft_seconds[counted].mean()), float(np.nanmean(played.tpot_seconds[counted])),
        float(played.e2e_seconds[counted].mean()), tokens / played.duration_seconds,
    )  # fmt: skip


def _offline(requests: Requests, replica: ReplicaSpec) -> ServedFigures:
    played = play(requests, [Deployment(PoolSpec(replica))])
    tokens = float(requests.output_tokens[played.counted].sum())
    return ServedFigures(None, None, None, tokens / played.duration_seconds)


def _static_batch(setting: "ServedSetting", replica: ReplicaSpec) -> ServedFigures:
    """One batch: all prompts in one iteration, then all answers in step."""
    row, batch = setting.row, setting.row.batch or 1
    prices, stages = replica.stages[0], len(replica.stages)
    prompts = IterationShape((row.input_tokens,) * batch, (0,) * batch)
    first = stages * prices.iteration_seconds(prompts) + setting.engine.front_end_seconds
    steps = row.output_tokens - 1
    if steps < 1:
        return ServedFigures(first, None, first, None)
    rest = stages * float(decode_run_seconds(prices, batch, batch * (row.input_tokens + 1.0), steps)[-1])
    return ServedFigures(first, rest / steps, first + rest, batch * row.output_tokens / (first + rest))
