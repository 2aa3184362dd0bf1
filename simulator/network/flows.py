"""Collectives on a network, round by round: every message a flow, all flows at once in fair shares of the links.

Several jobs run beside each other, and beside background traffic. A round takes the latency of its longest route, then
its flows drain; those of all jobs share links max-min fairly, again whenever one starts or ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from simulator.network.algorithms import SWITCH, Round
from simulator.network.build import Network
from simulator.network.sharing import fair_rates
from simulator.network.wiring import NO_LINK, Ints

Floats = NDArray[np.float64]
_DONE = 1e-12
"""Share of its bytes at which a flow counts as drained."""


@dataclass(frozen=True, slots=True)
class Job:
    """A collective of a group of ranks."""

    ranks: Ints
    rounds: Sequence[Round]
    start_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Background:
    """Traffic without end from each source to its target."""

    source: Ints
    target: Ints


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened on the network."""

    finish_seconds: tuple[float, ...]
    """By job."""
    link_bytes: Floats
    """What each link carried until the last job ended."""
    peak_load_fraction: float
    """The largest share of a link's rate that was in use at any time."""


@dataclass(slots=True, eq=False)
class _Running:
    """A job while it runs: its place among its rounds, and the flows of the present one."""

    job: Job
    index: int = 0
    repeat: int = 0
    begins: float = 0.0
    """When the flows of the round start to drain."""
    left: Floats = field(default_factory=lambda: np.empty(0))
    usage: sparse.csr_array | None = None


def play_jobs(network: Network, jobs: Sequence[Job], background: Background | None = None) -> Traffic:
    """Play `jobs` to their ends; raises ValueError where no path is left for a message."""
    return _Play(network, jobs, background).play()


class _Play:
    def __init__(self, network: Network, jobs: Sequence[Job], background: Background | None) -> None:
        self.network, self.rates = network, network.links.bytes_per_second
        self.now, self.peak = 0.0, 0.0
        self.carried = np.zeros(len(network.links))
        self.finish = [job.start_seconds for job in jobs]
        self.routes: dict[tuple[int, int], tuple[sparse.csr_array, float]] = {}
        self.others = [_usage(network, network.routes(background.source, background.target))] if background else []
        self.running = [_Running(job) for job in jobs]
        for number, one in enumerate(self.running):
            self._begin(number, one, one.job.start_seconds)

    def play(self) -> Traffic:
        while any(one.usage is not None for one in self.running):
            draining = [one for one in self.running if one.usage is not None and one.begins <= self.now]
            starts = min((one.begins for one in self.running if one.usage is not None and one not in draining),
                         default=np.inf)  # fmt: skip
            rates = self._share(draining)
            seconds = self._next_end(draining, rates)
            until = min(self.now + seconds, starts)
            self._advance(draining, rates, min(seconds, starts - self.now))
            self.now = until
            for number, one in enumerate(self.running):
                if one in draining and not one.left.any():
                    self._begin(number, one, self.now)
        return Traffic(tuple(self.finish), self.carried, self.peak)

    def _begin(self, number: int, one: _Running, now: float) -> None:
        """Start the next round of a job, or end it."""
        rounds = one.job.rounds
        if one.usage is not None:
            one.repeat += 1
            if one.repeat >= rounds[one.index].repeats:
                one.index, one.repeat = one.index + 1, 0
        if one.index >= len(rounds):
            self.finish[number], one.usage = now, None
            return
        if (number, one.index) not in self.routes:
            hops = _round_routes(self.network, one.job.ranks, rounds[one.index])
            self.routes[number, one.index] = (_usage(self.network, hops), _latency(self.network, hops))
        one.usage, latency = self.routes[number, one.index]
        one.left, one.begins = rounds[one.index].num_bytes.copy(), now + latency

    def _share(self, draining: Sequence[_Running]) -> list[Floats]:
        """Rates of the flows of every draining round that have bytes left."""
        rows = [one.usage[np.flatnonzero(one.left)] for one in draining if one.usage is not None]
        if not rows:
            return []
        usage = sparse.vstack([*rows, *self.others], format="csr")
        found = fair_rates(usage, self.rates)
        load = usage.T @ np.where(np.isfinite(found), found, 0.0) / self.rates
        self.peak = max(self.peak, float(load.max(initial=0.0)))
        ends = np.cumsum([row.shape[0] for row in rows])
        return np.split(found, ends)[: len(rows)]

    def _next_end(self, draining: Sequence[_Running], rates: Sequence[Floats]) -> float:
        ends = [
            float((one.left[one.left > 0.0] / rate).min())
            for one, rate in zip(draining, rates, strict=True)
            if one.left.any()
        ]
        return min(ends, default=np.inf)

    def _advance(self, draining: Sequence[_Running], rates: Sequence[Floats], seconds: float) -> None:
        for one, rate in zip(draining, rates, strict=True):
            assert one.usage is not None
            flows = np.flatnonzero(one.left)
            gone = one.left[flows] - rate * seconds <= _DONE * one.job.rounds[one.index].num_bytes[flows]
            sent = np.where(gone, one.left[flows], rate * seconds)
            one.left[flows] -= sent
            self.carried += one.usage[flows].T @ sent


def _round_routes(network: Network, ranks: Ints, one: Round) -> Ints:
    """Routes of the flows of a round; to and from the switch half of the way to the next member."""
    size = len(ranks)
    up, down = one.target == SWITCH, one.source == SWITCH
    source = ranks[np.where(down, (one.target - 1) % size, one.source)]
    target = ranks[np.where(up, (one.source + 1) % size, one.target)]
    hops = network.routes(source, target)
    if up.any() or down.any():
        length = (hops != NO_LINK).sum(axis=1)
        if (length != 2).any():
            raise ValueError("algorithm: in-switch needs members that share one switch")
        hops[up, 1], hops[down, 0] = NO_LINK, NO_LINK
    return hops


def _usage(network: Network, hops: Ints) -> sparse.csr_array:
    flow, hop = np.nonzero(hops != NO_LINK)
    entries = (np.ones(len(flow)), (flow, hops[flow, hop]))
    return sparse.csr_array(entries, shape=(len(hops), len(network.links)))


def _latency(network: Network, hops: Ints) -> float:
    seconds = np.where(hops == NO_LINK, 0.0, network.links.latency_seconds[hops])
    return float(seconds.sum(axis=1).max(initial=0.0))
