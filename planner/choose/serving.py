"""Which deployment serves a load: every split, precision, batch limit and kind of pool, by closed form.

Each distinct replica is priced once and its highest rate under the targets found; how many replicas are needed, or
fit on the devices, and how prefill pools combine with decode pools, is then arithmetic over all of them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.cost.kv import serving_memory
from planner.cost.serving import PriceBook, served_shard
from planner.cost.serving_load import Lengths, ReplicaCurve, most_requests_per_second, open_loop, replica_curve
from planner.serving import Pool, ServingPlan
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape

MAX_RANKS_A_REPLICA = 64
TOKEN_BUDGETS = (2048, 4096, 8192, 16384)
SEQUENCE_LIMITS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class ServingQuestion:
    """A model, what it runs on, and what is asked of it."""

    model: TransformerShape
    cluster: Cluster
    engine: EngineRecord
    lengths: Lengths
    requests_per_second: float | None = None
    """To be served by as few devices as possible; None: as many as the devices of the cluster can serve."""
    ttft_seconds: float = math.inf
    """Of 99 % of requests."""
    tpot_seconds: float = math.inf
    e2e_seconds: float = math.inf
    draft_tokens: int = 0
    """Guessed ahead for each running request, in every deployment."""
    acceptance_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class ServingSpace:
    """Choices of each field; one choice holds it."""

    forms: tuple[tuple[str, str], ...] = (("bf16", ""),)
    """Of weights and of experts."""
    kv_dtypes: tuple[str, ...] = ("bf16",)
    tp: tuple[int, ...] = (1, 2, 4, 8, 16)
    pp: tuple[int, ...] = (1, 2, 4)
    ep: tuple[int, ...] = ()
    """(): none, or over all ranks of a replica."""
    attention_dp: tuple[int, ...] = (1, 2, 4, 8)
    token_budgets: tuple[int, ...] = TOKEN_BUDGETS
    sequence_limits: tuple[int, ...] = SEQUENCE_LIMITS
    disaggregates: bool = True
    """Whether pools for prompts beside pools for decoding are looked at."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One way to run a replica, and the rates it can take."""

    plan: ServingPlan
    """With one replica."""
    curve: ReplicaCurve
    most_requests_per_second: float
    num_devices: int


@dataclass(frozen=True, slots=True)
class ServingCandidate:
    """A deployment and what its closed form says at the asked rate (or at its highest)."""

    plan: ServingPlan
    requests_per_second: float
    most_requests_per_second: float
    """Under the targets."""
    ttft_seconds: float
    ttft_tail_seconds: float
    tpot_seconds: float
    output_tokens_per_second: float

    @property
    def tokens_per_second_per_user(self) -> float:
        """How fast one answer streams."""
        return 1.0 / self.tpot_seconds

    @property
    def tokens_per_second_per_device(self) -> float:
        """Of all answers together."""
        return self.output_tokens_per_second / self.plan.num_devices


@dataclass(frozen=True, slots=True)
class ServingFound:
    """The candidates, best first, and what was looked at."""

    candidates: tuple[ServingCandidate, ...]
    pareto: tuple[ServingCandidate, ...]
    """Tokens/s a user against tokens/s a device: nothing is better in both."""
    num_considered: int
    refused: dict[str, int] = field(default_factory=dict)
    """Reason -> replicas."""


def search_serving(question: ServingQuestion, space: ServingSpace, *, top: int = 10) -> ServingFound:
    """The best deployments: fewest devices for the asked rate, or the highest rate on the devices there are."""
    refused: Counter[str] = Counter()
    whole, prompts, decodes = _replicas(question, space, refused)
    found = list(_aggregated(question, whole))
    considered = sum(_most_replicas(question, one) for one in whole)
    if space.disaggregates:
        pairs, count = _disaggregated(question, prompts, decodes)
        found += pairs
        considered += count
    found.sort(key=lambda one: _order(question, one))
    return ServingFound(tuple(_distinct(found)[:top]), _front(found), considered, dict(refused.most_common()))


def _order(question: ServingQuestion, one: ServingCandidate) -> tuple[float, ...]:
    """Fewest devices that serve the rate, or the highest rate; then fewer devices, then faster answers."""
    devices = float(one.plan.num_devices)
    first = devices if question.requests_per_second else -one.most_requests_per_second
    return (first, devices, one.ttft_tail_seconds + one.tpot_seconds)


def _distinct(found: Sequence[ServingCandidate]) -> list[ServingCandidate]:
    """The best of each split and precision: batch limits alone make no other deployment."""
    seen: dict[tuple[object, ...], ServingCandidate] = {}
    for one in found:
        plan = one.plan
        pools = tuple((pool.tp, pool.pp, pool.ep, pool.attention_dp) for pool in (plan.decode, plan.prefill) if pool)
        seen.setdefault((plan.weights, plan.kv_dtype, pools), one)
    return list(seen.values())


def _splits(question: ServingQuestion, space: ServingSpace, refused: Counter[str]) -> Iterator[Pool]:
    model, most = question.model, question.cluster.num_devices
    for tp in space.tp:
        for pp in space.pp:
            for groups in space.attention_dp:
                ranks = tp * groups
                if ranks * pp > min(most, MAX_RANKS_A_REPLICA):
                    refused["more devices than there are"] += 1
                    continue
                if model.num_heads % tp or model.num_layers < pp:
                    refused["heads or layers do not divide"] += 1
                    continue
                for ep in space.ep or ((1,) if model.moe is None else tuple({1, ranks})):
                    if _splits_experts(model, ranks, ep, groups):
                        yield Pool(tp=tp, pp=pp, ep=ep, attention_dp=groups)
                    else:
                        refused["experts do not divide"] += 1


def _splits_experts(model: TransformerShape, ranks: int, ep: int, groups: int) -> bool:
    if model.moe is None:
        return ep == 1 and groups == 1
    return ranks % ep == 0 and model.moe.num_experts % ep == 0 and model.moe.expert_ffn_size % (ranks // ep) == 0


def _replicas(
    question: ServingQuestion, space: ServingSpace, refused: Counter[str]
) -> tuple[list[Replica], list[Replica], list[Replica]]:
    """Replicas that do all work, that only run prompts, and that only decode; with their highest rates."""
    book = PriceBook()
    kinds: tuple[list[Replica], list[Replica], list[Replica]] = ([], [], [])
    for pool in _splits(question, space, refused):
        for weights, experts in space.forms:
            for kv_dtype in space.kv_dtypes:
                base = ServingPlan(
                    decode=pool, weights=weights, expert_weights=experts, kv_dtype=kv_dtype,
                    draft_tokens=question.draft_tokens, acceptance_fraction=question.acceptance_fraction,
                )  # fmt: skip
                try:
                    made = _priced(question, space, base, book)
                except ValueError as error:
                    refused[str(error)] += 1
                    continue
                if made is None:
                    refused["weights leave no room for one request"] += 1
                    continue
                for kind, more in zip(kinds, made, strict=True):
                    kind += more
    return kinds


def _priced(
    question: ServingQuestion, space: ServingSpace, base: ServingPlan, book: PriceBook
) -> tuple[list[Replica], list[Replica], list[Replica]] | None:
    """All batch limits of one split in one precision; None where a request does not fit."""
    engine, pool, lengths = question.engine, base.decode, question.lengths
    shard = served_shard(base, pool, engine)
    memory = serving_memory(question.model, shard, question.cluster.accelerator.memory_bytes, engine)
    if memory.num_kv_tokens < lengths.input_tokens + lengths.output_tokens:
        return None
    prices = book.prices(question.model, shard, question.cluster, engine)
    guessing = prices.guessing(base.draft_tokens) if base.draft_tokens else prices
    limits = (question.ttft_seconds, question.tpot_seconds, question.e2e_seconds)

    def made(budget: int, sequences: int, of: Lengths, *, runs_prompts: bool, targets: tuple[float, ...]) -> Replica:
        plan = replace(base, decode=replace(pool, token_budget=budget, max_sequences=sequences))
        answers = of.output_tokens > 1.0
        curve = replica_curve(
            guessing if answers else prices, pool.pp, memory.num_kv_tokens, budget * pool.attention_dp, sequences,
            engine, of, runs_prompts=runs_prompts,
            tokens_per_iteration=base.tokens_per_iteration if answers else 1.0,
        )  # fmt: skip
        return Replica(plan, curve, most_requests_per_second(curve, *targets), pool.num_devices)

    whole = [
        made(budget, sequences, lengths, runs_prompts=True, targets=limits)
        for budget in space.token_budgets
        for sequences in space.sequence_limits
    ]
    if not space.disaggregates:
        return whole, [], []
    first, free = replace(lengths, output_tokens=1.0), (math.inf, math.inf)
    budgets, widest = space.token_budgets, max(space.sequence_limits)
    prompts = [made(one, widest, first, runs_prompts=True, targets=(limits[0], *free)) for one in budgets]
    decodes = [
        made(max(budgets), one, lengths, runs_prompts=False, targets=(math.inf, limits[1], limits[2]))
        for one in space.sequence_limits
    ]
    return whole, prompts, decodes


def _most_replicas(question: ServingQuestion, one: Replica) -> int:
    return question.cluster.num_devices // one.num_devices


def _aggregated(question: ServingQuestion, whole: Sequence[Replica]) -> Iterator[ServingCandidate]:
    for one in whole:
        rate, most = question.requests_per_second, _most_replicas(question, one)
        if one.most_requests_per_second <= 0.0 or not most:
            continue
        count = math.ceil(rate / one.most_requests_per_second) if rate else most
        if count > most:
            continue
        plan = replace(one.plan, decode=replace(one.plan.decode, replicas=count))
        yield _candidate(plan, one, one, count, count, rate or count * one.most_requests_per_second)


def _disaggregated(
    question: ServingQuestion, prompts: Sequence[Replica], decodes: Sequence[Replica]
) -> tuple[list[ServingCandidate], int]:
    """The best number of replicas of each pair of pools of one precision, and how many pairs and numbers there are."""
    made, considered, total = [], 0, question.cluster.num_devices
    rate = question.requests_per_second
    for first in prompts:
        for second in decodes:
            same = _precision(first.plan) == _precision(second.plan)
            rates = (first.most_requests_per_second, second.most_requests_per_second)
            if not same or min(rates) <= 0.0:
                continue
            counts = np.arange(1, total // first.num_devices + 1)
            left = (total - counts * first.num_devices) // second.num_devices
            considered += int(np.maximum(left, 0).sum())
            if rate:
                num_first, num_second = (math.ceil(rate / one) for one in rates)
                if num_first * first.num_devices + num_second * second.num_devices > total:
                    continue
            else:
                both = np.minimum(counts * rates[0], np.maximum(left, 0) * rates[1])
                best = int(np.argmax(both))
                num_first, num_second = int(counts[best]), int(max(left[best], 0))
                if both[best] <= 0.0:
                    continue
            plan = replace(
                second.plan, decode=replace(second.plan.decode, replicas=num_second),
                prefill=replace(first.plan.decode, replicas=num_first),
            )  # fmt: skip
            served = rate or min(num_first * rates[0], num_second * rates[1])
            made.append(_candidate(plan, first, second, num_first, num_second, served))
    return made, considered


def _precision(plan: ServingPlan) -> tuple[str, str, str]:
    return (plan.weights, plan.expert_weights, plan.kv_dtype)


def _candidate(
    plan: ServingPlan, first: Replica, second: Replica, num_first: int, num_second: int, requests_per_second: float
) -> ServingCandidate:
    """Times at a rate: the first token from the pool that runs prompts, the others from the one that decodes."""
    front = open_loop(first.curve, requests_per_second / num_first)
    rest = front if second is first else open_loop(second.curve, requests_per_second / num_second)
    most = min(num_first * first.most_requests_per_second, num_second * second.most_requests_per_second)
    return ServingCandidate(
        plan, requests_per_second, most, float(front.ttft_seconds), float(front.ttft_tail_seconds),
        float(rest.tpot_seconds), requests_per_second * second.curve.lengths.output_tokens,
    )  # fmt: skip


def _front(found: Sequence[ServingCandidate]) -> tuple[ServingCandidate, ...]:
    """Those that no other beats in both rates, the fastest answers first."""
    front: list[ServingCandidate] = []
    for one in sorted(found, key=lambda one: (-one.tokens_per_second_per_user, -one.tokens_per_second_per_device)):
        if not front or one.tokens_per_second_per_device > front[-1].tokens_per_second_per_device * (1.0 + 1e-9):
            front.append(one)
    return tuple(front)
