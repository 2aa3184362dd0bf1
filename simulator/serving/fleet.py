"""A pool while it is played: which replicas take requests, and how that changes by autoscaling and failures."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from simulator.serving.batcher import Batcher
from simulator.serving.routers import ROUTERS
from simulator.serving.scaling import Autoscaling, Failure
from simulator.serving.spec import Deployment, PoolSpec


@dataclass(slots=True)
class Replica:
    """One replica of a pool and when it was paid for."""

    number: int
    loops: list[Batcher]
    begin_seconds: float
    """When it was asked for."""
    end_seconds: float = inf
    """When it was lost, or had finished what it had after it was let go; infinite: it stays until the end."""
    is_leaving: bool = False


class Pool:
    """The replicas that take requests now, and the router before them.

    `build` makes the loops of a new replica. `at` plays an action at a later time. `send` brings a request to the
    router.
    """

    def __init__(
        self,
        spec: PoolSpec,
        deployment: Deployment,
        build: Callable[["Pool"], list[Batcher]],
        at: Callable[[float, Callable[[float], None]], None],
        send: Callable[[int, "Pool", float], None],
    ) -> None:
        if spec.router not in ROUTERS:
            raise ValueError(f"router: {spec.router!r} is not one of {', '.join(ROUTERS)}")
        self.spec, self.deployment = spec, deployment
        self.for_prompts = spec is deployment.prefill
        self.up: list[Batcher] = []
        self.replicas: list[Replica] = []
        self._build, self._at, self._send = build, at, send
        self._route = ROUTERS[spec.router]
        self._num_routed = 0
        self._num_starting = 0
        self._parked: list[int] = []
        """Requests that came while no replica was up."""
        self._needed_seconds = 0.0
        """When all replicas were last needed."""

    def open(self) -> None:
        """Start with the replicas of the specification; plan what is to happen to them."""
        for _ in range(self.spec.num_replicas):
            self._add(0.0, 0.0)
        for failure in self.spec.failures:
            self._at(failure.at_seconds, lambda now, failure=failure: self._fail(failure, now))  # type: ignore[misc]

    def route(self, request: int) -> Batcher | None:
        """The loop that takes `request`; None while no replica is up: it is sent again when one is."""
        if not self.up:
            self._parked.append(request)
            return None
        self._num_routed += 1
        return self._route(request, self.up, self._num_routed - 1)

    def scale(self, scaling: Autoscaling, now: float) -> None:
        """Ask for replicas or let some go, as the load wants."""
        current = self._num_up + self._num_starting
        wanted = scaling.wanted(sum(loop.num_outstanding for loop in self.up) + len(self._parked))
        if wanted >= current:
            self._needed_seconds = now
        for _ in range(wanted - current):
            self._num_starting += 1
            self._at(now + scaling.startup_seconds, lambda then: self._started(now, then))
        if now - self._needed_seconds >= scaling.quiet_seconds:
            for _ in range(min(current - wanted, self._num_up - 1)):
                self._let_go(now)
            self._needed_seconds = now

    def done(self, loop: Batcher, now: float) -> None:
        """`loop` has nothing left to do; a replica that is leaving is gone when all of its loops are."""
        if loop in self.up:
            return
        for replica in self.replicas:
            if replica.is_leaving and loop in replica.loops and not any(own.num_outstanding for own in replica.loops):
                replica.end_seconds = now

    @property
    def _num_up(self) -> int:
        return len(self.up) // len(self.spec.replica.stages)

    def _add(self, begin: float, now: float) -> None:
        loops = self._build(self)
        self.up += loops
        self.replicas.append(Replica(len(self.replicas), loops, begin))
        parked, self._parked = self._parked, []
        for request in parked:
            self._send(request, self, now)

    def _started(self, asked: float, now: float) -> None:
        self._num_starting -= 1
        self._add(asked, now)

    def _let_go(self, now: float) -> None:
        """The replica with the least to do takes no more requests."""
        staying = [replica for replica in self.replicas if replica.loops[0] in self.up]
        leaving = min(staying, key=lambda replica: sum(loop.num_outstanding for loop in replica.loops))
        leaving.is_leaving = True
        for loop in leaving.loops:
            self.up.remove(loop)
        self.done(leaving.loops[0], now)

    def _fail(self, failure: Failure, now: float) -> None:
        """Lose a replica; its requests go through the router again."""
        lost = next((one for one in self.replicas if one.number == failure.replica and one.end_seconds == inf), None)
        if lost is None:
            return
        lost.end_seconds = now
        was_up = lost.loops[0] in self.up
        requests = []
        for loop in lost.loops:
            if was_up:
                self.up.remove(loop)
            requests += loop.abandon(now)
        for request in requests:
            self._send(request, self, now)
        if was_up:
            self._num_starting += 1
            self._at(now + failure.repair_seconds, lambda then: self._started(then, then))
