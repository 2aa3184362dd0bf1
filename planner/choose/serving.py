"""Which deployment serves a load: replicas of `planner.choose.serving_replicas`, how many, and in which pools.

Each distinct replica is priced once and its highest rate under the targets found; how many replicas are needed, or
fit on the devices, and how prefill pools combine with decode pools, is then arithmetic over all of them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.choose.serving_replicas import Replica, Room, ServingQuestion, ServingSpace, replicas
from planner.cost.kv_transfer import joining_tier, seconds_per_token
from planner.cost.serving_load import open_loop
from planner.serving import ServingPlan
from profiles.cluster import Tier


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
    dollars_per_hour: float | None = None
    """Of all its devices; None: not all have a price."""

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
    whole, prompts, decodes = replicas(question, space, refused)
    found = list(_aggregated(question, whole))
    considered = sum(one.most_replicas for one in whole)
    if space.disaggregates:
        pairs, count = _disaggregated(question, prompts, decodes)
        found += pairs
        considered += count
    found.sort(key=lambda one: _order(question, one))
    return ServingFound(tuple(_distinct(found)[:top]), _front(found), considered, dict(refused.most_common()))


def _order(question: ServingQuestion, one: ServingCandidate) -> tuple[float, ...]:
    """Cheapest (or fewest devices) for the rate, or the highest rate; then fewer devices, then faster answers."""
    devices = float(one.plan.num_devices) if one.dollars_per_hour is None else one.dollars_per_hour
    first = devices if question.requests_per_second else -one.most_requests_per_second
    return (first, devices, one.ttft_tail_seconds + one.tpot_seconds)


def _distinct(found: Sequence[ServingCandidate]) -> list[ServingCandidate]:
    """The best of each split and precision: batch limits alone make no other deployment."""
    seen: dict[tuple[object, ...], ServingCandidate] = {}
    for one in found:
        plan = one.plan
        pools = tuple(
            (pool.tp, pool.pp, pool.ep, pool.attention_dp, pool.cluster) for pool in (plan.decode, plan.prefill) if pool
        )
        seen.setdefault((plan.weights, plan.kv_dtype, pools), one)
    return list(seen.values())


def _aggregated(question: ServingQuestion, whole: Sequence[Replica]) -> Iterator[ServingCandidate]:
    for one in whole:
        rate, most = question.requests_per_second, one.most_replicas
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
    made, considered = [], 0
    moves = _Moves(question.lengths.input_tokens)
    for first in prompts:
        for second in decodes:
            if first.precision != second.precision:
                continue
            counts, left = _counts(first, second)
            considered += int(left.sum())
            moved = moves.seconds(first, second)
            rates = (min(first.most_requests_per_second, 1.0 / moved), second.most_requests_per_second)
            if min(rates) <= 0.0 or not counts.size:
                continue
            both = np.minimum(counts * rates[0], left * rates[1])
            served = question.requests_per_second or float(both.max())
            num_first, num_second = (math.ceil(served / one * (1.0 - 1e-12)) for one in rates)
            if not served or num_first > len(left) or num_second > left[num_first - 1]:
                continue
            plan = replace(
                second.plan, decode=replace(second.plan.decode, replicas=num_second),
                prefill=replace(first.plan.decode, replicas=num_first),
            )  # fmt: skip
            found = _candidate(plan, first, second, num_first, num_second, served, moved)
            if found.tpot_seconds <= question.tpot_seconds:
                made.append(found)
    return made, considered


def _counts(first: Replica, second: Replica) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", ...]:
    """Numbers of replicas of the first pool, and how many of the second their rooms have left beside them."""
    counts = np.arange(1, first.most_replicas + 1)
    total = second.room.cluster.num_devices
    if first.room.name == second.room.name:
        return counts, np.maximum(total - counts * first.num_devices, 0) // second.num_devices
    return counts, np.full_like(counts, second.most_replicas)


class _Moves:
    """Seconds in which keys and values of a prompt move between pools, whose links are looked up once."""

    def __init__(self, input_tokens: float) -> None:
        self._input_tokens = input_tokens
        self._tiers: dict[tuple[str, int, bool], Tier] = {}

    def seconds(self, first: Replica, second: Replica) -> float:
        """From a replica of one pool to one of the other."""
        leaves, count = first.room.name != second.room.name, first.num_devices + second.num_devices
        tiers = [self._tier(one.room.name, count, leaves) for one in (first, second)]
        each = seconds_per_token(first.memory, second.memory, *tiers)
        return self._input_tokens * each + max(tier.latency_seconds for tier in tiers)

    def _tier(self, name: str, count: int, leaves: bool) -> Tier:
        key = (name, count, leaves)
        if key not in self._tiers:
            self._tiers[key] = joining_tier(name, count, leaves=leaves)
        return self._tiers[key]


def _candidate(
    plan: ServingPlan, first: Replica, second: Replica, num_first: int, num_second: int, requests_per_second: float,
    moved_seconds: float = 0.0,
) -> ServingCandidate:  # fmt: skip
    """Times at a rate: the first token from the pool that runs prompts, the others from the one that decodes, after
    keys and values have moved there."""
    front = open_loop(first.curve, requests_per_second / num_first)
    rest = front if second is first else open_loop(second.curve, requests_per_second / num_second)
    most = min(num_first * first.most_requests_per_second, num_second * second.most_requests_per_second)
    output = second.curve.lengths.output_tokens
    tpot = float(rest.tpot_seconds) + moved_seconds / max(output - 1.0, 1.0)
    return ServingCandidate(
        plan, requests_per_second, most, float(front.ttft_seconds), float(front.ttft_tail_seconds),
        tpot, requests_per_second * output, _dollars_per_hour(plan, first.room, second.room),
    )  # fmt: skip


def _dollars_per_hour(plan: ServingPlan, first: Room, second: Room) -> float | None:
    pools = [(plan.decode, second)] + ([(plan.prefill, first)] if plan.prefill else [])
    prices = [room.dollars_per_device_hour for _, room in pools]
    if any(price is None for price in prices):
        return None
    return sum(pool.num_devices * (price or 0.0) for (pool, _), price in zip(pools, prices, strict=True))


def _front(found: Sequence[ServingCandidate]) -> tuple[ServingCandidate, ...]:
    """Those that no other beats in both rates, the fastest answers first."""
    front: list[ServingCandidate] = []
    for one in sorted(found, key=lambda one: (-one.tokens_per_second_per_user, -one.tokens_per_second_per_device)):
        if not front or one.tokens_per_second_per_device > front[-1].tokens_per_second_per_device * (1.0 + 1e-9):
            front.append(one)
    return tuple(front)
