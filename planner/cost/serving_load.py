"""Closed forms of serving: what a load makes of a replica's prices, without playing a single request.

Iterations of running requests alone take `decode` seconds; every prompt makes iterations longer by `prompt` seconds in
all. In equilibrium prompts take the share rho = rate * prompt of the time, tokens come every decode / (1 - rho)
seconds, and rate * (O - 1) * that many requests run [Little 1961, doi:10.1287/opre.9.3.383]; prompts wait as in an
M/G/1 queue [Kleinrock 1975, Queueing Systems I, section 5.7], and for a place (`planner.cost.slots`). Everything
broadcasts over rates.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from planner.cost.knots import Floats, geometric
from planner.cost.slots import SlotWait, slot_wait
from planner.serving import IterationPrices, IterationShape
from profiles.engine import EngineRecord

Numbers = Any
"""A float or an array of one value a deployment."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of requests: means, and how much they vary."""

    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0
    """Of the prompt, found in a cache."""
    input_variation_fraction: float = 0.0
    """Standard deviation over mean."""
    output_variation_fraction: float = 0.0
    tail_fraction: float = 0.01
    """Share of requests that tails leave out."""

    @property
    def of_prompts(self) -> "Lengths":
        """Of a pool that makes first tokens only."""
        return replace(self, output_tokens=1.0, output_variation_fraction=0.0)

    @property
    def mean_context_tokens(self) -> float:
        """Of a running request, averaged over its answer; long answers are met more often: E[O**2] / (2 E[O])."""
        return self.input_tokens + 0.5 * self.output_tokens * (1.0 + self.output_variation_fraction**2)

    @property
    def context_variation_fraction(self) -> float:
        """Of the tokens of running requests: of the prompt, and of what was made so far, E[O**3] / (3 E[O]) being that
        of log-normal answers."""
        grown = 1.0 + self.output_variation_fraction**2
        made = self.output_tokens**2 * (grown**3 / 3.0 - grown**2 / 4.0)
        return math.sqrt(made + (self.input_variation_fraction * self.input_tokens) ** 2) / self.mean_context_tokens

    @property
    def deviations(self) -> float:
        """Of a normal law, that the tail lies beyond."""
        return float(ndtri(1.0 - self.tail_fraction))

    @property
    def longest_prompt_factor(self) -> float:
        """Of a prompt that all but the tail stay below, over the mean, by a log-normal law."""
        return self._longest(self.input_variation_fraction)

    @property
    def longest_answer_factor(self) -> float:
        """Of an answer, likewise."""
        return self._longest(self.output_variation_fraction)

    def _longest(self, variation_fraction: float) -> float:
        variance = math.log1p(variation_fraction**2)
        return math.exp(self.deviations * math.sqrt(variance) - 0.5 * variance)


@dataclass(frozen=True, slots=True)
class ReplicaCurve:
    """A replica under requests of some lengths: its iterations against the requests that run; columns of shape (n,)."""

    num_running: Floats
    decode_seconds: Floats
    """Of one token of every running request, through all stages."""
    prompt_seconds: Floats
    """By which one prompt lengthens iterations in all, on the busiest stage."""
    first_token_seconds: Floats
    """Of the iterations that run a prompt beside those requests, through all stages."""
    num_prompt_iterations: Floats
    """Over which one prompt is spread."""
    most_sequences: Numbers
    """That may run at the same time; may be several limits, one a row of rates."""
    num_in_memory: float
    """Of mean length, that it holds."""
    num_prompts_beside: float
    """Further prompts of mean length that the token budget admits to an iteration."""
    num_together: float
    """Prompts that run side by side in one iteration where so many wait, one in each group of attention data
    parallelism; `prompt_seconds` are of one of so many."""
    num_stages: int
    engine: EngineRecord
    lengths: Lengths

    @property
    def most_running(self) -> Numbers:
        """That sequence limit and memory admit."""
        return np.minimum(self.most_sequences, self.num_in_memory)

    def at(self, num_running: Numbers, column: Floats) -> Numbers:
        """A column at some number of running requests, linear between its knots."""
        return np.interp(num_running, self.num_running, column)


def replica_curve(
    prices: IterationPrices, num_stages: int, kv_tokens: float, token_budget: int, max_sequences: Numbers,
    engine: EngineRecord, lengths: Lengths, *, runs_prompts: bool = True, tokens_per_iteration: float = 1.0,
    num_groups: int = 1,
) -> ReplicaCurve:  # fmt: skip
    """The curve of a replica whose stages each have `prices`; `runs_prompts` off: another pool runs them.

    Requests that guess ahead make `tokens_per_iteration`; `num_groups` attend to requests of their own.
    """
    context = lengths.mean_context_tokens
    held = 2.0 * context - lengths.input_tokens if engine.reserves_full_length else context
    sequences, in_memory = np.asarray(max_sequences, dtype=np.float64), max(kv_tokens / held, 1.0)
    most = min(float(sequences.max()), in_memory)
    knots = np.concatenate([[0.0], geometric(1.0, max(most, 2.0), 3, exact_until=4)])
    decode, extra, first, chunks = [], [], [], []
    for running in knots:
        per_loop = round(float(running) / num_stages)
        total = max(per_loop, 1) * context
        alone = prices.decode_line(max(per_loop, 1), total).seconds(total)
        mixed = _prompt_iterations(prices, lengths, token_budget, per_loop if engine.mixes_prefill else 0)
        beside = alone if engine.mixes_prefill and per_loop else 0.0
        decode.append(num_stages * alone)
        beyond = sum(mixed) - beside * len(mixed)
        if num_groups > 1 and len(mixed) == 1:
            decodes = per_loop if engine.mixes_prefill else 0
            beyond = (_side_by_side(prices, lengths, num_groups, decodes) - beside) / num_groups
        extra.append(beyond)
        first.append(sum(mixed) + (num_stages - 1) * mixed[-1])
        chunks.append(float(len(mixed)))
    columns = np.array([decode, extra, first, chunks])
    columns[0] /= tokens_per_iteration
    if not runs_prompts:
        columns[1:] = 0.0
    beside = max(token_budget / max(lengths.input_tokens - lengths.cached_tokens, 1.0) - 1.0, 0.0)
    together = float(num_groups) if runs_prompts else 1.0
    return ReplicaCurve(
        knots, columns[0], columns[1], columns[2], columns[3], sequences, in_memory, beside, together, num_stages,
        engine, lengths,
    )  # fmt: skip


def _prompt_iterations(prices: IterationPrices, lengths: Lengths, token_budget: int, num_decodes: int) -> list[float]:
    """Seconds of the iterations that one prompt of mean length takes, beside `num_decodes` requests."""
    past, left = round(lengths.cached_tokens), max(round(lengths.input_tokens - lengths.cached_tokens), 1)
    room = max(token_budget - num_decodes, 1)
    context = num_decodes * lengths.mean_context_tokens
    seconds = []
    while left > 0:
        new = min(left, room)
        seconds.append(prices.iteration_seconds(IterationShape((new,), (past,), num_decodes, context)))
        past, left = past + new, left - new
    return seconds


def _side_by_side(prices: IterationPrices, lengths: Lengths, num_prompts: int, num_decodes: int) -> float:
    """Seconds of an iteration with so many prompts of mean length."""
    past, new = round(lengths.cached_tokens), max(round(lengths.input_tokens - lengths.cached_tokens), 1)
    context = num_decodes * lengths.mean_context_tokens
    return prices.iteration_seconds(IterationShape((new,) * num_prompts, (past,) * num_prompts, num_decodes, context))


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """What users of a replica see in the long run; arrays of one value a rate. Tails are what all but the lengths'
    `tail_fraction` of requests stay below."""

    ttft_seconds: Numbers
    """Mean; infinite where requests come faster than they are answered."""
    ttft_tail_seconds: Numbers
    tpot_seconds: Numbers
    tpot_tail_seconds: Numbers
    itl_tail_seconds: Numbers
    """Between two tokens: of an iteration that runs a prompt where more than the tail do."""
    e2e_seconds: Numbers
    e2e_tail_seconds: Numbers
    output_tokens_per_second: Numbers
    num_running: Numbers
    prompt_fraction: Numbers
    """Share of the time that prompts take."""
    is_stable: Numbers


_NUM_HALVINGS = 32


def open_loop(curve: ReplicaCurve, requests_per_second: Numbers, seen_fraction: Numbers = 1.0) -> Equilibrium:
    """Poisson arrivals at a rate a replica.

    The mean number of running requests is the least n with n >= rate (O - 1) decode(1 + n) / (1 - rate prompt(n))
    [Little 1961], found by halving: a request that runs sees itself and as many others as there are on average
    [Wolff 1982, doi:10.1287/opre.30.2.223]. A replica is stable where it has room for them. `seen_fraction` of the
    others are seen where arrivals are not independent of them.
    """
    rate = np.asarray(requests_per_second, dtype=np.float64)
    gaps = max(curve.lengths.output_tokens - 1.0, 0.0)

    def wanted(running: Numbers) -> Numbers:
        share = seen_fraction * rate * _prompt_seconds(curve, running)
        decode = curve.at(1.0 + seen_fraction * running, curve.decode_seconds)
        return rate * gaps * decode / np.maximum(1.0 - share, 1e-12)

    low, high = np.zeros_like(rate), np.full_like(rate, curve.most_running)
    stable = (wanted(high) <= high) & (rate * _prompt_seconds(curve, high) < 1.0)
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        enough = wanted(middle) <= middle
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return _equilibrium(curve, rate, high, stable, seen_fraction)


def _prompt_seconds(curve: ReplicaCurve, running: Numbers) -> Numbers:
    """By which one prompt holds up a replica.

    A long iteration among short ones leaves the other stages of a pipeline idle: each p in a row take as long as the
    longest, p times. With a prompt in a share x of them, that of the p takes p (1 - (1 - x)**p) / (p x) times its own.
    """
    prompt, stages = curve.at(running, curve.prompt_seconds), curve.num_stages
    gaps = curve.lengths.output_tokens - 1.0
    if stages == 1 or gaps <= 0.0:
        return prompt
    share = np.clip(curve.at(running, curve.num_prompt_iterations) * running / (gaps * stages), 1e-9, 1.0)
    return prompt * (1.0 - (1.0 - share) ** stages) / share


def closed_loop(curve: ReplicaCurve, concurrency: Numbers) -> Equilibrium:
    """Clients that ask again as soon as they have their answer: the rate at which e2e * rate is their number
    [Little 1961], found by halving. A request sees the others of one client fewer [the arrival theorem: Reiser and
    Lavenberg 1980, doi:10.1145/322186.322195]."""
    clients = np.asarray(concurrency, dtype=np.float64)
    fastest = clients / np.maximum(curve.decode_seconds[0] * max(curve.lengths.output_tokens - 1.0, 1.0), 1e-12)
    seen = (clients - 1.0) / clients
    low, high = np.zeros_like(clients), np.minimum(fastest, 1.0 / np.maximum(curve.prompt_seconds[0], 1e-12))
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        found = open_loop(curve, middle, seen)
        under_way = np.where(found.is_stable, middle * found.e2e_seconds, np.inf)
        low, high = np.where(under_way <= clients, middle, low), np.where(under_way <= clients, high, middle)
    return open_loop(curve, low, seen)


def _equilibrium(
    curve: ReplicaCurve, rate: Numbers, running: Numbers, stable: Numbers, seen_fraction: Numbers
) -> Equilibrium:
    """Times at a rate, given how many requests run.

    TTFT = front end + rest of the iteration under way + queue + place + own iterations. The queue for the engine is
    M/G/1: W = rate E[S**2] / (2 (1 - rho)) with S a prompt's iterations; its tail falls as exp(-t rho / W)
    [Kleinrock 1975]. Prompts share iterations, so that a first token also waits for prompts that came while its own
    did, rate W of them.
    """
    engine, lengths = curve.engine, curve.lengths
    decode = curve.at(1.0 + seen_fraction * running, curve.decode_seconds)
    prompt, own = _prompt_seconds(curve, running), curve.at(running, curve.first_token_seconds)
    share = np.clip(seen_fraction * rate * prompt, 0.0, 1.0 - 1e-9)
    tpot = decode / (1.0 - share)
    spread = 1.0 + lengths.input_variation_fraction**2
    queue = seen_fraction * rate * spread * prompt**2 / (2.0 * (1.0 - share))
    serial = engine.front_end_seconds_per_request
    door = np.minimum(rate * serial, 1.0 - 1e-9)
    front = engine.front_end_seconds + serial + rate * serial**2 / (2.0 * (1.0 - door))
    is_busy = -np.expm1(-seen_fraction * running)  # an iteration is likely under way, perhaps another formed
    rest = is_busy * decode * (0.5 * engine.poll_interval_iterations + engine.schedules_ahead)
    if curve.num_together > 1.0:
        own = _with_others(own, prompt * curve.num_together, seen_fraction * rate, curve.num_together)
        rest = rest + 0.5 * own * np.minimum(seen_fraction * rate * own, 1.0)  # of prompts that this one does not join
    noise = _noise(curve, rate, running, tpot, prompt, seen_fraction)
    place = _place(curve, running, tpot, own, noise.peakedness, seen_fraction)
    beside = prompt * np.minimum(rate * queue, curve.num_prompts_beside)
    ttft = np.where(stable, front + rest + queue + beside + own + place.mean_seconds, np.inf)
    queued = queue / np.maximum(share, 1e-9) * np.log(np.maximum(share / lengths.tail_fraction, 1.0))
    late = [
        queued - queue + prompt * np.minimum(rate * queued, curve.num_prompts_beside) - beside,
        place.tail_seconds(lengths.tail_fraction) - place.mean_seconds,
        prompt * (lengths.longest_prompt_factor - 1.0),
    ]
    ttft_tail = ttft + rest + np.maximum.reduce([np.maximum(one, 0.0) for one in late])
    last = (lengths.output_tokens - 1.0) * tpot
    tpot_tail = tpot + lengths.deviations * noise.tpot_deviation_seconds
    chunks = np.maximum(curve.at(running, curve.num_prompt_iterations), 1.0)
    prompted = np.where(prompt > 0.0, np.minimum(seen_fraction * rate * chunks * tpot, 1.0), 0.0)
    between = np.where(prompted > lengths.tail_fraction, np.maximum(decode, decode + prompt / chunks), decode)
    return Equilibrium(
        ttft_seconds=ttft, ttft_tail_seconds=ttft_tail, tpot_seconds=tpot, tpot_tail_seconds=tpot_tail,
        itl_tail_seconds=between, e2e_seconds=ttft + last,
        e2e_tail_seconds=ttft_tail + max(lengths.longest_answer_factor * lengths.output_tokens - 1.0, 0.0) * tpot,
        output_tokens_per_second=rate * lengths.output_tokens, num_running=running, prompt_fraction=share,
        is_stable=stable,
    )  # fmt: skip


def _with_others(alone: Numbers, together: Numbers, rate: Numbers, num_together: float) -> Numbers:
    """Seconds of an iteration that takes what came during the one before it, n = rate T(n) prompts side by side, where
    T grows by as much with each from `alone` to `together` [bulk service: Kleinrock 1975, section 4.5]."""
    slope = np.maximum(together - alone, 0.0) / (num_together - 1.0)
    found = (alone - slope) / np.maximum(1.0 - rate * slope, 1e-9)
    return np.clip(found, alone, np.maximum(together, alone))


@dataclass(frozen=True, slots=True)
class _Noise:
    """How far a load strays from its mean."""

    peakedness: Numbers
    """Variance of the number of running requests over its mean."""
    tpot_deviation_seconds: Numbers
    """Among requests."""


def _noise(
    curve: ReplicaCurve, rate: Numbers, running: Numbers, tpot: Numbers, prompt: Numbers, seen_fraction: Numbers
) -> _Noise:
    """Of the number that runs, and of times per token.

    Where n run they leave at n / ((O - 1) tpot(n)) and come at a rate, so that their number has the variance
    n / (1 - n tpot' / tpot) [linear noise of a birth-death process: van Kampen 2007, section X.1]. A request sees its
    mean over its own life, whose variance is 2 / e of that. Of the prompts that run beside it there is a Poisson
    number, rate tpot for each of its own tokens.
    """
    lengths = curve.lengths
    beside, own = 1.0 + seen_fraction * running, curve.at(1.0 + seen_fraction * running, curve.decode_seconds)
    step = 0.05 * beside
    slope = (curve.at(beside + step, curve.decode_seconds) - own) / step * tpot / own
    peakedness = 1.0 / np.clip(1.0 - running * slope / tpot, 0.05, 1.0)
    of_running = 2.0 / np.e * running * peakedness * slope**2
    gaps = max(lengths.output_tokens - 1.0, 1.0) / (1.0 + lengths.output_variation_fraction**2)
    of_prompts = seen_fraction * rate * tpot * prompt**2 * (1.0 + lengths.input_variation_fraction**2) / gaps
    return _Noise(peakedness, np.sqrt(of_running + of_prompts))


def _place(
    curve: ReplicaCurve, running: Numbers, tpot: Numbers, own: Numbers, peakedness: Numbers, seen_fraction: Numbers
) -> SlotWait:
    """Waiting for one of the sequences or for memory, whichever is scarcer."""
    lengths = curve.lengths
    held = own + max(lengths.output_tokens - 1.0, 0.0) * tpot
    uneven = peakedness * (1.0 + lengths.context_variation_fraction**2)
    spread = lengths.output_variation_fraction
    seen = seen_fraction * running
    for_sequence = slot_wait(curve.most_sequences, seen, held, peakedness, spread)
    for_memory = slot_wait(curve.num_in_memory, seen, held, uneven, spread)
    scarcer = for_memory.mean_seconds > for_sequence.mean_seconds
    return SlotWait(
        np.where(scarcer, for_memory.chance_fraction, for_sequence.chance_fraction),
        np.where(scarcer, for_memory.delay_seconds, for_sequence.delay_seconds),
    )


def most_requests_per_second(
    curve: ReplicaCurve, ttft_seconds: float = np.inf, tpot_seconds: float = np.inf, e2e_seconds: float = np.inf
) -> Numbers:
    """The highest rate at which a replica is stable and all but the tail of requests stay within each target; 0 where
    an idle replica misses one. Of a curve with several limits of sequences, of each of them.

    Found on a grid of rates, and once more between two of them."""

    targets = (ttft_seconds, tpot_seconds, e2e_seconds)
    limits = np.reshape(curve.most_sequences, (-1, 1))
    curve, asked = replace(curve, most_sequences=limits), np.shape(curve.most_sequences)
    gaps = max(curve.lengths.output_tokens - 1.0, 0.0)
    busy = np.maximum(float(curve.prompt_seconds[0]), gaps * float(curve.decode_seconds[0]) / curve.most_running)
    low, high = np.zeros(limits.shape), 1.0 / np.maximum(busy, 1e-9)
    for _ in range(_NUM_ZOOMS):
        rates = low + (high - low) * np.linspace(0.0, 1.0, _NUM_RATES)
        missed = ~_meets(open_loop(curve, rates), *targets)
        first, is_free = missed.argmax(axis=1)[:, None], ~missed.any(axis=1)[:, None]
        ends = [np.take_along_axis(rates, np.maximum(first - back, 0), axis=1) for back in (1, 0)]
        low, high = (np.where(is_free, high, end) for end in ends)
    return low[:, 0].reshape(asked)


_NUM_ZOOMS, _NUM_RATES = 2, 64


def _meets(found: Equilibrium, ttft_seconds: float, tpot_seconds: float, e2e_seconds: float) -> Numbers:
    return (
        found.is_stable
        & (found.ttft_tail_seconds <= ttft_seconds)
        & (found.tpot_tail_seconds <= tpot_seconds)
        & (found.e2e_tail_seconds <= e2e_seconds)
    )
