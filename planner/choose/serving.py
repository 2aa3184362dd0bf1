"""Which deployment serves a load: replicas of `planner.choose.serving_replicas`, how many, and in which pools.

Each distinct replica is priced once and its highest rate under the targets found; how many replicas are needed, or
fit on the devices, and how prefill pools combine with decode pools, is then arithmetic over all of them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.choose.explain import duration
from planner.choose.serving_replicas import Replica, ServingQuestion, ServingSpace, replicas
from planner.cost.kv_transfer import joining_tier, seconds_per_token
from planner.cost.serving import PriceBook
from planner.cost.serving_load import Equilibrium, open_loop
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
    tpot_tail_seconds: float
    e2e_tail_seconds: float
    output_tokens_per_second: float
    dollars_per_hour: float | None
    """Of all its devices; None: not all have a price."""
    replicas: tuple[Replica, ...]
    """One of each pool, in the order a request passes through them."""
    moved_seconds: float
    """In which keys and values of a prompt move between the pools."""

    @property
    def is_stable(self) -> bool:
        """Whether requests come no faster than they are answered."""
        return math.isfinite(self.ttft_seconds)

    def at(self, requests_per_second: float) -> "ServingCandidate":
        """The same deployment at another rate."""
        return _candidate(_Times(), self.plan, self.replicas, requests_per_second, self.moved_seconds)

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
    nearest: str = ""
    """What would be possible where there are no candidates, in a sentence; "" where nothing fits at all."""


@dataclass(frozen=True, slots=True)
class Finalist:
    """The best batch limits of one split in one precision, and how many there were."""

    replica: Replica
    num_limits: int


@dataclass(frozen=True, slots=True)
class PricedReplicas:
    """Every distinct split with its highest rate: what deployments are put together from."""

    question: ServingQuestion
    whole: tuple[Finalist, ...]
    prompts: tuple[Finalist, ...]
    decodes: tuple[Finalist, ...]
    refused: dict[str, int]
    """Reason -> replicas."""


def price_replicas(question: ServingQuestion, space: ServingSpace, book: PriceBook | None = None) -> PricedReplicas:
    """Price what `space` holds; the prices themselves are kept in `book`."""
    refused: Counter[str] = Counter()
    whole, prompts, decodes = (finalists(those) for those in replicas(question, space, refused, book))
    refused += Counter(reason for one in whole if (reason := _why_too_little(question, one.replica)))
    return PricedReplicas(question, whole, prompts, decodes, dict(refused.most_common()))


def _why_too_little(question: ServingQuestion, one: Replica) -> str:
    """Why all replicas that there is room for do not serve the asked rate; "" where they do."""
    if one.most_requests_per_second > 0.0:
        most = one.most_replicas * one.most_requests_per_second
        is_enough = (question.requests_per_second or 0.0) <= most
        return "" if is_enough else "as many as there is room for answer too few requests within the targets"
    idle = open_loop(one.curve, 0.0)
    targets = (
        ("first token", question.ttft_seconds, idle.ttft_tail_seconds),
        ("time per token", question.tpot_seconds, idle.tpot_tail_seconds),
        ("whole answer", question.e2e_seconds, idle.e2e_tail_seconds),
    )
    late = [name for name, target, seconds in targets if not float(seconds) <= target]
    return f"idle, they miss the target of the {late[0]}" if late else "too few requests run at a time"


def _nearest(priced: PricedReplicas) -> str:
    """The highest rate within the targets; where no replica meets them at all, the best times of an idle one."""
    most = max((one.replica.most_replicas * one.replica.most_requests_per_second for one in priced.whole), default=0.0)
    if most > 0.0:
        return f"at best {most:.3g} requests/s are answered within the targets on these devices"
    idle = [open_loop(one.replica.curve, 0.0) for one in priced.whole]
    if not idle:
        return ""
    ttft, tpot, e2e = (
        duration(min(float(getattr(one, name)) for one in idle))
        for name in ("ttft_tail_seconds", "tpot_tail_seconds", "e2e_tail_seconds")
    )
    return f"at best idle replicas begin an answer within {ttft}, go on every {tpot}, and end it within {e2e}"


_AS_GOOD_FRACTION = 0.02
"""Of a rate: limits that lose no more than that are as good, and those nearest to the engine's own are taken."""


def finalists(those: Sequence[Replica]) -> tuple[Finalist, ...]:
    """Of each split in each precision the batch limits that take the most requests."""
    groups: dict[tuple[object, ...], list[Replica]] = {}
    for one in those:
        pool = one.plan.decode
        split = (pool.tp, pool.pp, pool.ep, pool.attention_dp, pool.device_fraction, pool.cluster)
        groups.setdefault((split, one.precision), []).append(one)
    found = []
    for group in groups.values():
        most = max(one.most_requests_per_second for one in group)
        good = [one for one in group if one.most_requests_per_second >= most * (1.0 - _AS_GOOD_FRACTION)]
        found.append(Finalist(min(good, key=_from_defaults), len(group)))
    return tuple(found)


def _from_defaults(one: Replica) -> float:
    """Doublings between its batch limits and those that the engine has by itself."""
    pool, engine = one.plan.decode, one.curve.engine
    limits = ((pool.token_budget, engine.token_budget), (pool.max_sequences, engine.max_sequences))
    return sum(abs(math.log2(limit / usual)) for limit, usual in limits)


def best_deployments(priced: PricedReplicas, *, top: int = 10, reserve_factor: float = 1.0) -> ServingFound:
    """The best deployments: fewest devices for the asked rate, or the highest rate on the devices there are, where
    replicas are taken to answer `reserve_factor` times fewer requests than their closed forms say; of one pool, as many
    as there is room for where that asks for more."""
    question = priced.question
    found = list(_aggregated(question, priced.whole, reserve_factor))
    pairs, num_pairs = _disaggregated(question, priced.prompts, priced.decodes, reserve_factor)
    front = _front([more for one in found for more in _with_less_to_do(question, one)] + pairs)
    found = sorted(found + pairs, key=lambda one: _order(question, one))
    considered = sum(one.replica.most_replicas * one.num_limits for one in priced.whole) + num_pairs
    nearest = "" if found else _nearest(priced)
    return ServingFound(tuple(found[:top]), front, considered, priced.refused, nearest)


def search_serving(question: ServingQuestion, space: ServingSpace, *, top: int = 10) -> ServingFound:
    """`best_deployments` of a question, by closed forms alone."""
    return best_deployments(price_replicas(question, space), top=top)


def _order(question: ServingQuestion, one: ServingCandidate) -> tuple[float, ...]:
    """Cheapest (or fewest devices) for the rate, or the highest rate; then fewer devices, then faster answers."""
    devices = float(one.plan.num_devices) if one.dollars_per_hour is None else one.dollars_per_hour
    first = devices if question.requests_per_second else -one.most_requests_per_second
    return (first, devices, one.ttft_tail_seconds + one.tpot_tail_seconds)


def _aggregated(
    question: ServingQuestion, whole: Sequence[Finalist], reserve_factor: float
) -> Iterator[ServingCandidate]:
    times = _Times()
    for one in (each.replica for each in whole):
        rate, most = question.requests_per_second, one.most_replicas
        relied = one.most_requests_per_second / reserve_factor
        if relied <= 0.0 or not most or (rate or 0.0) > most * one.most_requests_per_second:
            continue
        count = min(math.ceil(rate / relied), most) if rate else most
        plan = replace(one.plan, decode=replace(one.plan.decode, replicas=count))
        yield _candidate(times, plan, (one,), rate or count * relied)


def _with_less_to_do(question: ServingQuestion, one: ServingCandidate) -> Iterator[ServingCandidate]:
    """The same split with twice as many replicas, four times ... for the asked rate; or at lower rates than the
    highest."""
    if not question.requests_per_second:
        yield from (one.at(one.requests_per_second * 2.0 ** (-0.5 * step)) for step in range(_LESS_STEPS))
        return
    (replica,), count = one.replicas, one.plan.decode.replicas
    while count <= replica.most_replicas:
        more = replace(one.plan, decode=replace(one.plan.decode, replicas=count))
        yield replace(one, plan=more).at(one.requests_per_second)
        count *= 2


_LESS_STEPS = 10


def _disaggregated(
    question: ServingQuestion, prompts: Sequence[Finalist], decodes: Sequence[Finalist], reserve_factor: float
) -> tuple[list[ServingCandidate], int]:
    """The best number of replicas of each pair of pools of one precision, and how many pairs and numbers there are."""
    made, considered = [], 0
    moves, times = _Moves(question.lengths.input_tokens), _Times()
    for one in prompts:
        for other in decodes:
            first, second = one.replica, other.replica
            if first.precision != second.precision:
                continue
            counts, left = _counts(first, second)
            considered += int(left.sum()) * one.num_limits * other.num_limits
            moved = moves.seconds(first, second)
            most = (min(first.most_requests_per_second, 1.0 / moved), second.most_requests_per_second)
            rates = [each / reserve_factor for each in most]
            if min(rates) <= 0.0 or not counts.size:
                continue
            both = np.minimum(counts * rates[0], left * rates[1])
            served = question.requests_per_second or float(both.max())
            num_first, num_second = (math.ceil(served / each * (1.0 - 1e-12)) for each in rates)
            if not served or num_first > len(left) or num_second > left[num_first - 1]:
                continue
            plan = replace(
                second.plan, decode=replace(second.plan.decode, replicas=num_second),
                prefill=replace(first.plan.decode, replicas=num_first),
            )  # fmt: skip
            found = _candidate(times, plan, (first, second), served, moved)
            if _meets(question, found):
                made.append(found)
    return made, considered


def _meets(question: ServingQuestion, one: ServingCandidate) -> bool:
    """Whether all but the tail of requests stay within each target, both pools together."""
    return (
        one.ttft_tail_seconds <= question.ttft_seconds
        and one.tpot_tail_seconds <= question.tpot_seconds
        and one.e2e_tail_seconds <= question.e2e_seconds
    )


def _counts(first: Replica, second: Replica) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", ...]:
    """Numbers of replicas of the first pool, and how many of the second their rooms have left beside them."""
    counts = np.arange(1, first.most_replicas + 1)
    total = second.room.cluster.num_devices
    if first.room.name == second.room.name:
        return counts, np.maximum(total - counts * first.num_devices, 0) // second.num_devices
    return counts, np.full_like(counts, second.most_replicas)


class _Times:
    """Times of replicas at rates, each found once."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, float], Equilibrium] = {}

    def at(self, one: Replica, requests_per_second: float) -> Equilibrium:
        """Of a replica that is given so many."""
        key = (id(one), requests_per_second)
        if key not in self._found:
            self._found[key] = open_loop(one.curve, requests_per_second)
        return self._found[key]


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
    times: _Times, plan: ServingPlan, pools: tuple[Replica, ...], requests_per_second: float,
    moved_seconds: float = 0.0,
) -> ServingCandidate:  # fmt: skip
    """Times at a rate: the first token is seen when the pool that decodes has the keys and values and begins."""
    counts = [pool.replicas for pool in (plan.prefill, plan.decode) if pool is not None]
    found = [times.at(one, requests_per_second / count) for one, count in zip(pools, counts, strict=True)]
    most = min(count * one.most_requests_per_second for one, count in zip(pools, counts, strict=True))
    handed = 0.0 if plan.prefill is None else moved_seconds + pools[0].curve.engine.handover_seconds
    ttft, tail = (handed + sum(float(getattr(one, name)) for one in found) for name in _TTFTS)
    last = found[-1]
    return ServingCandidate(
        plan, requests_per_second, most, ttft, tail, float(last.tpot_seconds), float(last.tpot_tail_seconds),
        float(last.e2e_tail_seconds) - float(last.ttft_tail_seconds) + tail,
        float(last.output_tokens_per_second) * counts[-1], _dollars_per_hour(pools, counts), pools, moved_seconds,
    )  # fmt: skip


_TTFTS = ("ttft_seconds", "ttft_tail_seconds")


def _dollars_per_hour(pools: Sequence[Replica], counts: Sequence[int]) -> float | None:
    prices = [one.room.dollars_per_device_hour for one in pools]
    if any(price is None for price in prices):
        return None
    each = zip(pools, counts, prices, strict=True)
    return sum(one.num_devices * count * (price or 0.0) for one, count, price in each)


def _front(found: Sequence[ServingCandidate]) -> tuple[ServingCandidate, ...]:
    """Those that no other beats in both rates, the fastest answers first."""
    front: list[ServingCandidate] = []
    for one in sorted(found, key=lambda one: (-one.tokens_per_second_per_user, -one.tokens_per_second_per_device)):
        if not front or one.tokens_per_second_per_device > front[-1].tokens_per_second_per_device * (1.0 + 1e-9):
            front.append(one)
    return tuple(front)
