"""Requests on a clock: arrivals, routers, loops and transfers in the order of their times.

A plain heap of events: a process of SimPy for each request and loop would cost more than everything it waits for.
Events of the same time are played arrivals first, then what is timed, then batches that end, then batches that start,
and within each in the order of their numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from math import inf

import numpy as np

from simulator.serving.batcher import Batcher
from simulator.serving.fleet import Pool
from simulator.serving.ledger import NEVER, Ledger, ints
from simulator.serving.pipeline import loops_of
from simulator.serving.requests import ClosedLoop, Requests
from simulator.serving.result import Played
from simulator.serving.scaling import Autoscaling
from simulator.serving.sources import Arrival, Clients, OpenLoop, Source
from simulator.serving.spec import Deployment
from simulator.serving.speculation import steps_by_tokens
from simulator.serving.timeline import Timeline

ARRIVAL, TIMER, END, START = range(4)
FROM_CLIENT = -1


def play(
    requests: Requests,
    deployments: Sequence[Deployment],
    *,
    closed_loop: ClosedLoop | None = None,
    generator: np.random.Generator | None = None,
    coalesces: bool = True,
    timeline: Timeline | None = None,
) -> Played:
    """Every request from its arrival to its last token.

    `generator` draws what is random (which guesses are right); without it a seed of 0 does. `coalesces` off plays
    one iteration at a time. `timeline` is told what replicas do. Raises ValueError for a router that is not known.
    """
    source: Source
    heads = requests.heads
    source = Clients(closed_loop, heads) if closed_loop else OpenLoop(requests.arrival_seconds, heads)
    game = Game(
        requests, deployments, source, generator or np.random.default_rng(0), coalesces=coalesces, timeline=timeline
    )
    game.play()
    num_warmup = closed_loop.num_warmup if closed_loop else 0
    return game.played(int(heads[num_warmup]) if num_warmup < len(heads) else len(requests))


class Member:
    """A loop in a pool, and the number of its next event; events with older numbers are void."""

    __slots__ = ("due_seconds", "link_free_seconds", "loop", "pool", "replica", "version")

    def __init__(self, loop: Batcher, pool: "Pool", replica: int) -> None:
        self.loop, self.pool, self.replica = loop, pool, replica
        self.version = 0
        self.due_seconds = inf
        """When that event is."""
        self.link_free_seconds = 0.0
        """When the transfers it has begun are over."""


class Game:
    """The state of everything, and the heap of what happens next."""

    def __init__(
        self, requests: Requests, deployments: Sequence[Deployment], source: Source, generator: np.random.Generator,
        *, coalesces: bool = True, timeline: Timeline | None = None,
    ) -> None:  # fmt: skip
        self.requests, self.source, self.generator, self.coalesces = requests, source, generator, coalesces
        self.ledger = Ledger(requests)
        self.timeline = timeline
        self.agenda: list[tuple[float, int, int, int]] = []
        """(time, kind, request or number of an action or loop, pool or version)."""
        self.members: list[Member] = []
        self.actions: list[Callable[[float], None]] = []
        self.num_left = len(requests)
        """Requests that are neither answered nor refused."""
        firsts = np.cumsum([0, *(len(deployment.pools) for deployment in deployments)])
        self.entrances: list[int] = firsts[:-1].tolist()
        """The first pool of each deployment."""
        self.deployment_of = ints(requests.deployment, len(requests))
        self.follower_of = ints(requests.follower, len(requests), -1)
        self.pools = [
            Pool(spec, deployment, self._build, self._at, self._send)
            for deployment in deployments
            for spec in deployment.pools
        ]
        for pool in self.pools:
            pool.open()
            if pool.spec.scaling is not None:
                self._scale_often(pool, pool.spec.scaling, 0.0)

    def play(self) -> None:
        """Until nothing is left to happen."""
        agenda = self.agenda
        self._expect(self.source.first())
        while agenda:
            now, kind, number, other = heappop(agenda)
            if kind == ARRIVAL:
                if other == FROM_CLIENT:
                    self.ledger.arrival_seconds[number] = now
                    self._expect(self.source.after_arrival())
                    other = self.entrances[self.deployment_of[number]]
                self._arrive(number, self.pools[other], now)
            elif kind == TIMER:
                self.actions[number](now)
            else:
                member = self.members[number]
                if other == member.version:
                    self._turn(member, now, kind)

    def _build(self, pool: Pool) -> list[Batcher]:
        """The loops of another replica of `pool`."""
        spec = pool.spec.replica
        steps_of = steps_by_tokens(spec.speculation, self.generator) if spec.speculation else None
        loops = loops_of(spec, self.ledger, prompts_only=pool.for_prompts, coalesces=self.coalesces, steps_of=steps_of)
        replica = 1 + max((member.replica for member in self.members), default=-1)
        for loop in loops:
            loop.number = len(self.members)
            self.members.append(Member(loop, pool, replica))
        return loops

    def _at(self, seconds: float, action: Callable[[float], None]) -> None:
        """Play `action` then."""
        self.actions.append(action)
        heappush(self.agenda, (seconds, TIMER, len(self.actions) - 1, 0))

    def _send(self, request: int, pool: Pool, seconds: float) -> None:
        """Bring `request` to the router of `pool` then."""
        heappush(self.agenda, (seconds, ARRIVAL, request, self.pools.index(pool)))

    def _scale_often(self, pool: Pool, scaling: Autoscaling, now: float) -> None:
        """Look at the load of `pool`, and again after its interval as long as there are requests."""
        if self.num_left:
            pool.scale(scaling, now)
            self._at(now + scaling.interval_seconds, lambda then: self._scale_often(pool, scaling, then))

    def _expect(self, arrivals: Iterator[Arrival]) -> None:
        for seconds, request in arrivals:
            heappush(self.agenda, (seconds, ARRIVAL, request, FROM_CLIENT))

    def _arrive(self, request: int, pool: Pool, now: float) -> None:
        """Route a request to a loop, and wake the loop or end its run where it would see the request."""
        loop = pool.route(request)
        if loop is None:
            return
        if not loop.holds(request):
            self._refuse(request, now)
            return
        member = self.members[loop.number]
        self.ledger.replica[request] = member.replica
        seen = loop.deliver(request, now)
        if loop.run is None:
            if seen < member.due_seconds:
                self._schedule(member, seen, START)
        elif loop.can_be_cut and seen < member.due_seconds:
            self._schedule(member, loop.cut(seen), END)

    def _turn(self, member: Member, now: float, kind: int) -> None:
        """End the batch in flight and begin another, after everything else that happens now."""
        loop = member.loop
        member.due_seconds = inf
        if kind == END:
            if loop.run is None:  # its replica failed meanwhile
                if self.timeline is not None:
                    self.timeline.look(loop, now)
                return
            if self.timeline is not None:
                self.timeline.ends(loop, now)
            for request in loop.finish(now):
                self._done(request, member)
            if self.timeline is not None:
                self.timeline.look(loop, now)
            if not loop.num_outstanding:
                member.pool.done(loop, now)
            if self.agenda and self.agenda[0][0] <= now:
                self._schedule(member, now, START)
                return
        free = loop.can_start_at(now)
        if free > now:
            self._schedule(member, free, START)
            return
        end = loop.start(now)
        if end < inf:
            self._schedule(member, end, START if loop.run is None else END)

    def _schedule(self, member: Member, seconds: float, kind: int) -> None:
        """What `member` does next, instead of what it was to do."""
        member.version += 1
        member.due_seconds = seconds
        heappush(self.agenda, (seconds, kind, member.loop.number, member.version))

    def _refuse(self, request: int, now: float) -> None:
        """No replica can ever hold it, nor is there anything to make of its answer."""
        while request >= 0:
            self.num_left -= 1
            request = self.follower_of[request]
        self._expect(self.source.after_answer(now))

    def _done(self, request: int, member: Member) -> None:
        """The loop has made its last token: that of the request, or the first one, with which another pool goes on."""
        ledger = self.ledger
        seconds = ledger.last_token_seconds[request]
        if member.pool.for_prompts and ledger.output_tokens[request] > 1:
            self._transfer(request, member, seconds)
            return
        self.num_left -= 1
        follower = self.follower_of[request]
        if follower >= 0:
            ledger.arrival_seconds[follower] = seconds
            self._send(follower, self.pools[self.entrances[self.deployment_of[follower]]], seconds)
        else:
            self._expect(self.source.after_answer(seconds))

    def _transfer(self, request: int, member: Member, now: float) -> None:
        """Send its keys and values to the pool that goes on with it."""
        ledger, transfer = self.ledger, member.pool.deployment.transfer
        stored = ledger.input_tokens[request] + ledger.made_tokens[request] - 1
        ledger.ready_tokens[request] = stored
        ledger.first_token_seconds[request] = ledger.last_token_seconds[request] = NEVER
        now += member.loop.engine.handover_seconds
        seconds = now
        if transfer is not None:
            sent_seconds = transfer.bytes_per_token * stored / transfer.bytes_per_second
            member.link_free_seconds = max(now, member.link_free_seconds) + sent_seconds
            seconds = member.link_free_seconds + transfer.latency_seconds
        self._send(request, self.pools[self.pools.index(member.pool) + 1], seconds)

    def played(self, first: int) -> Played:
        """What happened to the requests from `first` on, as arrays."""
        ledger = self.ledger
        end = float(np.nanmax(np.array(ledger.last_token_seconds), initial=0.0))
        return Played(
            requests=self.requests,
            arrival_seconds=np.array(ledger.arrival_seconds),
            first_token_seconds=np.array(ledger.first_token_seconds),
            last_token_seconds=np.array(ledger.last_token_seconds),
            cached_tokens=np.array(ledger.cached_tokens),
            num_preemptions=np.array(ledger.num_preemptions),
            replica=np.array(ledger.replica),
            first_counted=first,
            lives_seconds=tuple(
                tuple((replica.begin_seconds, min(replica.end_seconds, end)) for replica in pool.replicas)
                for pool in self.pools
            ),
        )
