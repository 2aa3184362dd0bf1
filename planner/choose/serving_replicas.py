"""Replicas to serve with: every split, precision and batch limit of a model on each kind of device, by closed form."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from planner.cost.drafting import beside_draft, check_draft, drafted
from planner.cost.eager import as_launched
from planner.cost.kv import ServingMemory, serving_memory
from planner.cost.serving import PriceBook, served_shard
from planner.cost.serving_load import Lengths, ReplicaCurve, most_requests_per_second, replica_curve
from planner.cost.sliced import sliced
from planner.serving import IterationPrices, Pool, ServingPlan
from planner.work.forms import check_units
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape

MAX_RANKS_A_REPLICA = 64
TOKEN_BUDGETS = (2048, 4096, 8192, 16384)
SEQUENCE_LIMITS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Room:
    """Devices of one kind that pools may lie on."""

    cluster: Cluster
    dollars_per_device_hour: float | None = None
    name: str = ""
    """As pools call it: of the catalog, or a file."""


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
    draft: TransformerShape | None = None
    """Who guesses; None: heads of the model's own."""
    eager: bool = False
    dollars_per_device_hour: float | None = None
    """Of `cluster`. Where it is known of all rooms the cheapest deployment is wanted, else the fewest devices."""
    others: tuple[Room, ...] = ()
    """Further kinds of devices."""
    cluster_name: str = ""
    """How pools call `cluster`; "": by its own name."""

    @property
    def rooms(self) -> tuple[Room, ...]:
        """All kinds of devices, the first of them `cluster`."""
        return (Room(self.cluster, self.dollars_per_device_hour, self.cluster_name or self.cluster.name), *self.others)

    @property
    def is_priced(self) -> bool:
        """Whether every room has a price."""
        return all(room.dollars_per_device_hour is not None for room in self.rooms)


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
    device_fraction: float = 1.0
    """Of its devices that every replica has."""
    room: str | None = None
    """Where replicas that decode lie; None: in any."""
    prompt_room: str | None = None
    """Where those lie that only run prompts; None: in any."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One way to run a replica, and the rates it can take."""

    plan: ServingPlan
    """With one replica."""
    curve: ReplicaCurve
    most_requests_per_second: float
    num_devices: int
    room: Room
    memory: ServingMemory

    @property
    def precision(self) -> tuple[str, str, str]:
        """Formats of weights, experts and cache: pools that serve together share them."""
        return (self.plan.weights, self.plan.expert_weights, self.plan.kv_dtype)

    @property
    def most_replicas(self) -> int:
        """That its room holds."""
        return self.room.cluster.num_devices // self.num_devices


def _splits(question: ServingQuestion, space: ServingSpace, room: Room, refused: Counter[str]) -> Iterator[Pool]:
    model, most = question.model, room.cluster.num_devices
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
                        yield Pool(tp=tp, pp=pp, ep=ep, attention_dp=groups, cluster=room.name)
                    else:
                        refused["experts do not divide"] += 1


def _splits_experts(model: TransformerShape, ranks: int, ep: int, groups: int) -> bool:
    if model.moe is None:
        return ep == 1 and groups == 1
    return ranks % ep == 0 and model.moe.num_experts % ep == 0 and model.moe.expert_ffn_size % (ranks // ep) == 0


def replicas(
    question: ServingQuestion, space: ServingSpace, refused: Counter[str], book: PriceBook | None = None
) -> tuple[list[Replica], list[Replica], list[Replica]]:
    """Replicas that do all work, that only run prompts, and that only decode; with their highest rates. The prices of
    their iterations are kept in `book`."""
    book = book or PriceBook()
    kinds: tuple[list[Replica], list[Replica], list[Replica]] = ([], [], [])
    cases = (
        (room, pool, *form, kv_dtype)
        for room in question.rooms
        for pool in _splits(question, space, room, refused)
        for form in space.forms
        for kv_dtype in space.kv_dtypes
    )
    for room, pool, weights, experts, kv_dtype in cases:
        base = ServingPlan(
            decode=pool, weights=weights, expert_weights=experts, kv_dtype=kv_dtype,
            draft_tokens=question.draft_tokens, acceptance_fraction=question.acceptance_fraction,
            draft_model=question.draft.name if question.draft else "", eager=question.eager,
        )  # fmt: skip
        try:
            made = _priced(question, space, room, base, book)
        except ValueError as error:
            refused[str(error)] += 1
            continue
        if made is None:
            refused["weights leave no room for one request"] += 1
            continue
        homes = (space.room, space.prompt_room, space.room)
        for kind, more, home in zip(kinds, made, homes, strict=True):
            kind += more if home in (None, room.name) else []
    return kinds


def _priced(
    question: ServingQuestion, space: ServingSpace, room: Room, base: ServingPlan, book: PriceBook
) -> tuple[list[Replica], list[Replica], list[Replica]] | None:
    """All batch limits of one split in one precision; None where a request does not fit."""
    engine, pool, lengths = question.engine, base.decode, question.lengths
    check_units(base.weights, room.cluster.accelerator)
    shard = served_shard(base, pool, engine)
    held_bytes = space.device_fraction * room.cluster.accelerator.memory_bytes
    memory = serving_memory(question.model, shard, held_bytes, engine)
    if question.draft is not None:
        check_draft(question.draft, question.model, pool.tp)
        memory = beside_draft(memory, question.draft, base, pool, held_bytes, engine)
    if memory.num_kv_tokens < lengths.input_tokens + lengths.output_tokens:
        return None
    pool = replace(pool, device_fraction=space.device_fraction)
    captured = book.prices(question.model, shard, room.cluster, engine)
    once, in_pool = replace(base, draft_tokens=0), captured.of_prompts_alone(engine)
    alone = sliced(as_launched(in_pool, once, shard, question.model, engine), pool.device_fraction)
    answering: IterationPrices = captured
    if question.draft is not None:
        answering = drafted(captured, question.draft, base, pool, room.cluster, engine, book)
    elif base.draft_tokens:
        answering = captured.guessing(base.draft_tokens)
    answering = sliced(as_launched(answering, base, shard, question.model, engine), pool.device_fraction)
    limits = (question.ttft_seconds, question.tpot_seconds, question.e2e_seconds)

    def made(budget: int, of: Lengths, *, runs_prompts: bool, targets: tuple[float, ...]) -> list[Replica]:
        """One of each limit of sequences."""
        answers = of.output_tokens > 1.0
        curve = replica_curve(
            answering if answers else alone, pool.pp, memory.num_kv_tokens, budget * pool.attention_dp,
            space.sequence_limits if answers else max(space.sequence_limits), engine, of, runs_prompts=runs_prompts,
            tokens_per_iteration=base.tokens_per_iteration if answers else 1.0, num_groups=pool.attention_dp,
        )  # fmt: skip
        found = []
        most = most_requests_per_second(curve, *targets)
        for limit, rate in zip(np.ravel(curve.most_sequences).tolist(), np.ravel(most).tolist(), strict=True):
            plan = replace(base, decode=replace(pool, token_budget=budget, max_sequences=int(limit)))
            one = replace(curve, most_sequences=limit)
            found.append(Replica(plan, one, rate, pool.num_devices, room, memory))
        return found

    whole = [one for budget in space.token_budgets for one in made(budget, lengths, runs_prompts=True, targets=limits)]
    if not space.disaggregates:
        return whole, [], []
    until_handed = (limits[0] - engine.handover_seconds, math.inf, math.inf)
    prompts = [
        one
        for budget in space.token_budgets
        for one in made(budget, lengths.of_prompts, runs_prompts=True, targets=until_handed)
    ]
    free = (math.inf, limits[1], limits[2])
    return whole, prompts, made(max(space.token_budgets), lengths, runs_prompts=False, targets=free)
