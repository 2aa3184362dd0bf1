"""Play a step program on a clock: ranks are SimPy processes with a compute stream and network streams.

Nothing here knows a bubble formula: fill, drain, waiting and overlap come out of the actions. Simultaneous
events are served by (time, rank, order of scheduling), so that a simulation is the same every time it is run.
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from planner.breakdown import Breakdown
from planner.work.actions import FREES, RECEIVES, Action, Kind, matching_send
from planner.work.program import StepProgram, peak_activation_bytes, peak_activations
from simulator.trace import Prices, Stream, Track, rank_breakdown


@dataclass(frozen=True, slots=True)
class Simulation:
    """One played step."""

    program: StepProgram
    prices: Prices
    tracks: tuple[Track, ...]
    """The spans of every rank and stream that has any, by rank and then stream."""
    step_seconds: float
    """The end of the last span."""
    busiest_rank: int
    """The rank whose compute stream is in use longest; the lowest of equals."""

    @property
    def breakdown(self) -> Breakdown:
        """Where the step's time goes on the busiest rank."""
        return self.breakdown_of(self.busiest_rank)

    def breakdown_of(self, rank: int) -> Breakdown:
        """Where the step's time goes on `rank`; the parts sum to the step."""
        return rank_breakdown(self.tracks, rank, self.prices, self.step_seconds)

    @property
    def peak_activations(self) -> tuple[int, ...]:
        """Microbatches, counted by chunk, that each rank holds at its peak."""
        return peak_activations(self.program)

    @property
    def peak_activation_bytes(self) -> tuple[float, ...]:
        """Bytes of activations each rank holds at its peak."""
        return peak_activation_bytes(self.program)


def simulate(
    program: StepProgram,
    prices: Prices,
    *,
    dp_overlap: bool,
    pp_overlap: bool,
    dp_contention_fraction: float = 0.0,
    jitter_fraction: float = 0.0,
    generator: np.random.Generator | None = None,
) -> Simulation:
    """Play `program` once.

    `pp_overlap`: messages between stages leave when they are sent and travel beside compute, sends and receives
    of a rank on a stream each. Without it a message moves only while its receiver waits, and a rank has one
    stream for both directions; that is how gloo behaves (measured: 2 m transfers exposed at two stages).

    `dp_overlap`: bucket i of n of a chunk's gradients is ready at (i + 1) / n of its last backward and reduced
    beside what follows; as steps repeat, the parameters gathered at the end of one are played beside the first
    forwards of the next, that is at the start of this one. Without it gradients are reduced after the rank's
    last backward and parameters gathered after its optimizer step, beside nothing.

    A forward or backward whose price has `layers` runs through them: each waits for its gather, which starts with
    the layer before it, and its reduction starts when it ends and the reduction before has ended.

    `dp_contention_fraction`: what compute loses of its rate while a dp message runs beside it. The loss is played,
    and counted, as a wait for the message. All of it without `dp_overlap`. Where the program is asynchronous, what a
    step exchanges travels beside the next one, that is beside this one as steps repeat.

    `jitter_fraction`: every action's seconds are multiplied by a log-normal draw of mean 1 and this standard
    deviation of the logarithm, from `generator`.

    Raises ValueError for a missing or impossible price, jitter without a generator and a program that deadlocks.
    """
    clock = Clock(pp_overlap, dp_contention_fraction if dp_overlap or program.is_asynchronous else 1.0)
    rank_of = {action.chunk: rank for rank, actions in enumerate(program.ranks) for action in actions}
    seconds = [_jittered(own, jitter_fraction, generator) for own in action_seconds(program, prices)]
    ranks = [Rank(rank, rank, program, prices, seconds[rank], clock, dp_overlap) for rank in range(len(program.ranks))]
    for rank in ranks:
        rank.peers = {chunk: ranks[owner] for chunk, owner in rank_of.items()}
        clock.start(rank)
    clock.run()
    for rank in ranks:
        if rank.waiting_for is not None:
            raise ValueError(f"rank {rank.rank}: deadlock, {rank.waiting_for} is never reached")
    tracks = tuple(track for rank in ranks for track in rank.tracks())
    busy = [rank.recorders[Stream.COMPUTE].busy_seconds for rank in ranks]
    return Simulation(
        program=program,
        prices=prices,
        tracks=tracks,
        step_seconds=max((float(track.end_seconds.max()) for track in tracks), default=0.0),
        busiest_rank=busy.index(max(busy)),
    )


def action_seconds(program: StepProgram, prices: Prices) -> list[list[float]]:
    """Seconds of every action, by rank; 0 for receives. Raises ValueError for a missing or impossible price."""
    totals: dict[tuple[Kind, int], float] = {}
    for kind, chunk in {(action.kind, action.chunk) for actions in program.ranks for action in actions}:
        if kind in RECEIVES:
            totals[kind, chunk] = 0.0
            continue
        if (kind, chunk) not in prices:
            raise ValueError(f"prices: there is none for {kind.value} of chunk {chunk}")
        totals[kind, chunk] = prices[kind, chunk].total_seconds
        if not 0.0 <= totals[kind, chunk] < math.inf:
            raise ValueError(
                f"prices: {kind.value} of chunk {chunk} takes {totals[kind, chunk]} s, it must be 0 or more"
            )
    return [[totals[action.kind, action.chunk] for action in actions] for actions in program.ranks]


def _jittered(seconds: list[float], jitter_fraction: float, generator: np.random.Generator | None) -> list[float]:
    if not 0.0 <= jitter_fraction < math.inf:
        raise ValueError(f"jitter_fraction: {jitter_fraction} must be 0 or more")
    if jitter_fraction == 0.0:
        return seconds
    if generator is None:
        raise ValueError(f"jitter_fraction: {jitter_fraction} needs a generator to draw from")
    draws = generator.lognormal(-0.5 * jitter_fraction**2, jitter_fraction, len(seconds))
    found: list[float] = (np.array(seconds) * draws).tolist()
    return found


Mark = Any
"""When a message ends: a time, or, where that is not known beforehand, the event of its end."""


class Recorder:
    """The spans of one stream while they are made: 20 bytes each."""

    __slots__ = ("busy_seconds", "ends", "free", "index", "starts")

    def __init__(self) -> None:
        self.index, self.starts, self.ends = array("i"), array("d"), array("d")
        self.busy_seconds = 0.0
        self.free = 0.0
        """When the last span ends."""

    def add(self, index: int, start: float, end: float) -> None:
        """Record a span, or lengthen the last one if this continues it."""
        if end <= start:
            return
        self.busy_seconds += end - start
        self.free = end
        if self.index and self.index[-1] == index and self.ends[-1] == start:
            self.ends[-1] = end
            return
        self.index.append(index)
        self.starts.append(start)
        self.ends.append(end)


@dataclass(slots=True)
class _Message:
    """A message that was sent and not yet received."""

    sender: "Rank"
    index: int
    """Of its send, in the program of the sender."""
    seconds: float
    start: float = 0.0
    """When it leaves, if it travels beside compute."""


class Clock(simpy.Environment):
    """The simulation's time, and the messages between its ranks."""

    def __init__(self, pp_overlap: bool, contention: float) -> None:
        super().__init__()
        self.pp_overlap, self.contention = pp_overlap, contention
        self.sent: dict[Action, _Message] = {}
        self.waiting: dict[Action, simpy.Event] = {}
        """Receivers that wait for a send, by the send."""
        self.rank_of: dict[simpy.Process | None, int] = {}

    def start(self, rank: "Rank") -> simpy.Process:
        """Let `rank` run its program from now on."""
        process = self.process(rank.run())
        self.rank_of[process] = rank.rank
        return process

    def schedule(self, event: simpy.Event, priority: int = 1, delay: float = 0.0) -> None:
        """Serve events of one time by the rank that scheduled them; SimPy's own urgent ones stay first."""
        super().schedule(event, priority and 1 + self.rank_of.get(self.active_process, 0), delay)


class Rank:
    """One pipeline rank: its compute stream is a SimPy process, its network streams are when they are next free."""

    def __init__(
        self, rank: int, stage: int, program: StepProgram, prices: Prices, seconds: list[float], clock: Clock,
        dp_overlap: bool,
    ) -> None:  # fmt: skip
        self.prices = prices
        self.rank, self.actions, self.seconds = rank, program.ranks[stage], seconds
        self.num_buckets = program.num_gradient_buckets
        self.clock, self.is_asynchronous = clock, program.is_asynchronous
        self.dp_overlap = dp_overlap or program.is_asynchronous
        self.peers: dict[int, Rank] = {}
        """The rank of every chunk."""
        self.recorders = {stream: Recorder() for stream in Stream}
        self.send_free = self.receive_free = 0.0
        self.reduction: dict[int, int] = {}
        """Of a backward that is its chunk's last, the index of the reduction behind it."""
        if dp_overlap and not program.is_asynchronous:
            self.reduction = _last_backwards(self.actions)
        self.arrivals: dict[int, list[Mark]] = {}
        """Of a chunk whose first forward is to come, when each bucket of its parameters is there."""
        self.unreduced: list[int] = []
        """Reductions put off until the last backward."""
        self.waiting_for: Action | None = None

    def tracks(self) -> Iterator[Track]:
        """What was recorded, by stream."""
        for stream, recorder in self.recorders.items():
            if recorder.index:
                starts = np.array(recorder.starts)
                order = np.argsort(starts, kind="stable")
                index = np.array(recorder.index, dtype=np.int32)[order]
                yield Track(self.rank, stream, self.actions, index, starts[order], np.array(recorder.ends)[order])

    def run(self) -> Iterator[simpy.Event]:
        """The process: the rank's actions in program order."""
        if self.is_asynchronous:
            self._exchange_apart()
        elif self.dp_overlap:
            self._gather_early()
        for index, action in enumerate(self.actions):
            match action.kind:
                case Kind.FORWARD:
                    if action.chunk in self.arrivals:
                        yield from self._run_gathered(index, self.arrivals.pop(action.chunk))
                    else:
                        yield from self._run_layers(index)
                case Kind.BACKWARD | Kind.BACKWARD_WEIGHT if index in self.reduction:
                    yield from self._run_buckets(index, self.reduction[index])
                case Kind.BACKWARD | Kind.BACKWARD_INPUT | Kind.BACKWARD_WEIGHT:
                    yield from self._run_layers(index)
                case Kind.SEND_FORWARD | Kind.SEND_BACKWARD:
                    self._send(index, action)
                case Kind.RECV_FORWARD | Kind.RECV_BACKWARD:
                    yield from self._receive(index, action)
                case Kind.REDUCE_GRADIENTS if not self.dp_overlap:
                    self.unreduced.append(index)
                case Kind.OPTIMIZER:
                    yield from self._finish_reductions()
                    yield from self._compute(index)
                case Kind.GATHER_PARAMETERS if not self.dp_overlap:
                    yield from self._communicate(index)
        yield from self._finish_reductions()

    def _wait_until(self, mark: Mark) -> Iterator[simpy.Event]:
        if isinstance(mark, simpy.Event):
            yield mark
        elif mark > self.clock.now:
            yield self.clock.timeout(mark - self.clock.now)

    def _compute(self, index: int, fraction: float = 1.0) -> Iterator[simpy.Event]:
        """A share of an action, beside whatever dp messages are under way; no other starts before it ends."""
        start, seconds = self.clock.now, fraction * self.seconds[index]
        lost = self._lost_seconds(seconds)
        yield self.clock.timeout(seconds + lost)
        self.recorders[Stream.COMPUTE].add(index, start + lost, self.clock.now)

    def _lost_seconds(self, seconds: float) -> float:
        """What `seconds` of compute from now on lose to the dp messages beside them."""
        contention = self.clock.contention
        beside = max(self.recorders[Stream.DP].free - self.clock.now, 0.0)
        if contention < 1.0:
            beside = min(beside, seconds / (1.0 - contention))
        return contention * beside

    def _run_layers(self, index: int, reduction: int | None = None) -> Iterator[simpy.Event]:
        """An action layer by layer, each gathered while the one before it runs; `reduction` is cut into buckets."""
        action = self.actions[index]
        layers = self.prices[action.kind, action.chunk].layers
        if not layers:
            yield from self._compute(index)
            return
        reduced: Mark = 0.0
        arrived = self._post(index, layers[0].gather_seconds)
        for layer, following in zip(layers, (*layers[1:], None), strict=True):
            yield from self._wait_until(arrived)
            arrived = self._post(index, following.gather_seconds) if following else 0.0
            yield from self._compute(index, layer.compute_fraction)
            yield from self._wait_until(reduced)
            reduced = self._post(index, layer.reduce_seconds)
            if reduction is not None:
                self._post(reduction, self.seconds[reduction] / len(layers))
        yield from self._wait_until(reduced)

    def _run_gathered(self, index: int, arrivals: list[Mark]) -> Iterator[simpy.Event]:
        """The first forward of a chunk, share by share as the buckets of its parameters arrive."""
        for arrival in arrivals:
            yield from self._wait_until(arrival)
            yield from self._compute(index, 1.0 / len(arrivals))

    def _last_message(self) -> Mark:
        """When the last dp message that was queued ends."""
        return self.recorders[Stream.DP].free

    def _post(self, index: int, seconds: float) -> Mark:
        """Queue a dp message now; returns when it ends (now if there is none)."""
        if seconds <= 0.0:
            return self.clock.now
        dp = self.recorders[Stream.DP]
        start = max(self.clock.now, dp.free)
        dp.add(index, start, start + seconds)
        return dp.free

    def _run_buckets(self, index: int, reduction: int) -> Iterator[simpy.Event]:
        """The last backward of a chunk; its gradients are reduced bucket by bucket as they are made."""
        action, chunk = self.actions[index], self.actions[index].chunk
        if self.prices[action.kind, chunk].layers:
            yield from self._run_layers(index, reduction)
            return
        num_buckets = self.num_buckets[chunk] if self.num_buckets else 1
        for _ in range(num_buckets):
            yield from self._compute(index, 1.0 / num_buckets)
            self._post(reduction, self.seconds[reduction] / num_buckets)

    def _communicate(self, index: int) -> Iterator[simpy.Event]:
        """A dp message beside nothing."""
        yield from self._wait_until(self._post(index, self.seconds[index]))

    def _send(self, index: int, action: Action) -> None:
        message = _Message(self, index, self.seconds[index])
        if self.clock.pp_overlap:
            receiver = self.peers[action.chunk + (1 if action.kind is Kind.SEND_FORWARD else -1)]
            message.start = max(self.clock.now, self.send_free, receiver.receive_free)
            self.send_free = receiver.receive_free = message.start + message.seconds
            self.recorders[Stream.PP_SEND].add(index, message.start, self.send_free)
        self.clock.sent[action] = message
        if action in self.clock.waiting:
            self.clock.waiting.pop(action).succeed()

    def _receive(self, index: int, action: Action) -> Iterator[simpy.Event]:
        clock, send = self.clock, matching_send(action)
        if send not in clock.sent:
            self.waiting_for = send
            clock.waiting[send] = clock.event()
            yield clock.waiting[send]
            self.waiting_for = None
        message = clock.sent.pop(send)
        if not clock.pp_overlap:
            sender = message.sender
            message.start = max(clock.now, sender.send_free, self.send_free)
            sender.send_free = self.send_free = message.start + message.seconds
            sender.recorders[Stream.PP_SEND].add(message.index, message.start, self.send_free)
        arrival = message.start + message.seconds
        self.recorders[Stream.PP_RECEIVE].add(index, message.start, arrival)
        yield from self._wait_until(arrival)

    def _finish_reductions(self) -> Iterator[simpy.Event]:
        for index in self.unreduced:
            yield from self._communicate(index)
        self.unreduced.clear()
        yield from self._wait_until(self._last_message())

    def _exchange_apart(self) -> None:
        """What the step before sends and fetches is on its way while this one runs; nothing but its end waits."""
        for index, action in enumerate(self.actions):
            if action.kind in (Kind.REDUCE_GRADIENTS, Kind.GATHER_PARAMETERS):
                self._post(index, self.seconds[index])

    def _gather_early(self) -> None:
        """Gather at the start, bucket by bucket; the shares of a chunk's first forward wait for theirs."""
        for index, action in enumerate(self.actions):
            if action.kind is Kind.GATHER_PARAMETERS:
                num_buckets = self.num_buckets[action.chunk] if self.num_buckets else 1
                share = self.seconds[index] / num_buckets
                self.arrivals[action.chunk] = [self._post(index, share) for _ in range(num_buckets)]


def _last_backwards(actions: tuple[Action, ...]) -> dict[int, int]:
    """Index of every backward that a reduction of its chunk follows -> index of that reduction."""
    latest: dict[int, int] = {}
    found: dict[int, int] = {}
    for index, action in enumerate(actions):
        if action.kind in FREES:
            latest[action.chunk] = index
        elif action.kind is Kind.REDUCE_GRADIENTS:
            found[latest[action.chunk]] = index
    return found
