"""A step program on a network: every message is work on the links it crosses, beside all others of that time.

Composition is that of `simulator.engine`: what runs after what. Here messages end when the links let them, groups start
when the last of their ranks has come, and tp, cp and ep messages have streams of their own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import simpy
from numpy.typing import NDArray
from scipy import sparse

from planner.cost.phase import ActionPrice
from planner.work.actions import COMPUTE, SENDS, Action, Kind, matching_send
from planner.work.program import StepProgram
from profiles.cluster import Cluster
from simulator.disturbances import Disturbances
from simulator.engine import Clock, Mark, Rank, Simulation, action_seconds
from simulator.network.build import Network
from simulator.network.fluid import Fluid
from simulator.network.folding import Folding, fold
from simulator.network.patterns import AXES_OF, Key, Pattern, Patterns, by_columns, step_patterns
from simulator.trace import Prices, Stream, Track, rank_breakdown

Floats = NDArray[np.float64]
_STREAMS = {"tp": Stream.TP, "cp": Stream.CP, "ep": Stream.EP}
Delays = dict[str, dict[str, float]]
"""Part of a breakdown -> seconds of its messages by cause: alone, contention, waiting."""


@dataclass(frozen=True, slots=True)
class NetworkStep:
    """One step played on a network."""

    simulation: Simulation
    """Ranks are numbered lane by lane, `pp` stages each."""
    folding: Folding
    network: Network
    busy_fraction: Floats
    """Share of the step that each link is in use, at the rates that links reach, (links,)."""
    delays: tuple[Delays, ...]
    """By simulated rank: what its messages take alone, what sharing links adds, what waiting for others adds."""
    num_messages: int

    @property
    def lane(self) -> int:
        """The lane of the busiest rank."""
        return self.simulation.busiest_rank // self.folding.plan.pp

    def lane_simulation(self) -> Simulation:
        """The pipeline of the busiest rank by itself, its ranks numbered by stage."""
        pp, whole = self.folding.plan.pp, self.simulation
        first = self.lane * pp
        tracks = tuple(replace(one, rank=one.rank - first) for one in whole.tracks if first <= one.rank < first + pp)
        return replace(whole, tracks=tracks, busiest_rank=whole.busiest_rank - first)

    def name(self, rank: int) -> str:
        """What a simulated rank is called: its device, or its stage, and how many devices it stands for."""
        lane, stage = divmod(rank, self.folding.plan.pp)
        rows = self.folding.rows(lane)
        device = int(self.folding.devices[stage, rows[0]])
        return f"rank {device}" if len(rows) == 1 else f"stage {stage}: rank {device} and {len(rows) - 1} like it"

    def mean_parts(self) -> dict[str, float]:
        """Seconds by part of a breakdown, in the mean over all devices."""
        simulation, pp = self.simulation, self.folding.plan.pp
        tracks: dict[int, list[Track]] = {}
        for track in simulation.tracks:
            tracks.setdefault(track.rank, []).append(track)
        weights = np.bincount(self.folding.lane_of) / (len(self.folding.lane_of) * pp)
        seconds: dict[str, float] = {}
        for rank, own in tracks.items():
            parts = rank_breakdown(own, rank, simulation.prices, simulation.step_seconds).parts()
            for part, value in parts.items():
                seconds[part] = seconds.get(part, 0.0) + float(weights[rank // pp]) * value
        return seconds

    def busiest_links(self, count: int) -> list[tuple[str, float]]:
        """(name, share of the step in use) of the busiest link of each part of the network, `count` at most."""
        found = []
        for number in range(len(self.network.parts)):
            own = np.flatnonzero(self.network.part_of == number)
            best = own[np.argsort(-self.busy_fraction[own], kind="stable")[:count]]
            found += [(self.network.link_name(link), float(self.busy_fraction[link])) for link in best.tolist()]
        return [(name, share) for name, share in found if share > 0.0]


def simulate_on_network(
    program: StepProgram,
    prices: Prices,
    cluster: Cluster,
    network: Network,
    *,
    dp_overlap: bool,
    pp_overlap: bool,
    dp_contention_fraction: float = 0.0,
    unfolds: bool = False,
    background_fraction: float = 0.0,
    disturbances: Disturbances | None = None,
    generator: np.random.Generator | None = None,
) -> NetworkStep:
    """Play `program` once on `network`; options as in `simulator.engine.simulate`.

    `unfolds`: simulate every device by itself; else one rank stands for all that do the same at the same time.
    `background_fraction`: share of the links between nodes that others use. Draws of `disturbances` are of every
    device, and unfold. Raises ValueError for options without sense and a program that deadlocks.
    """
    if not 0.0 <= background_fraction < 1.0:
        raise ValueError(f"background: must be at least 0 and below 1, got {background_fraction:g}")
    unequal = disturbances or Disturbances()
    slowness = unequal.slowness(cluster.num_devices, cluster.devices_per_node, generator)
    folding = fold(program.plan, slowness, _slow_ports(network), unfolds=unfolds or unequal.is_random)
    patterns = step_patterns(program, network, cluster, folding)
    usage, column_of = by_columns(patterns.usage(len(network.links)))
    capacity = _capacity(network, column_of, background_fraction, usage.shape[1])
    clock = Clock(pp_overlap, dp_contention_fraction if dp_overlap or program.is_asynchronous else 1.0)
    silent = sparse.csr_array((1, usage.shape[1]))
    fluid = Fluid(clock, sparse.vstack([usage, silent], format="csr"), capacity)
    carrier = _Carrier(clock, fluid, patterns)
    ranks = _ranks(program, prices, folding, carrier, unequal, generator, dp_overlap=dp_overlap)
    started = [clock.start(rank) for rank in ranks]
    clock.run()
    for rank, process in zip(ranks, started, strict=True):
        if process.is_alive:
            raise ValueError(f"rank {rank.rank}: deadlock, {rank.waiting_for or 'a group message'} is never reached")
    simulation = _simulation(program, prices, ranks, patterns)
    busy = np.zeros(len(network.links))
    links = np.array(list(column_of), dtype=np.int64)
    work = fluid.work_seconds[: usage.shape[0]] @ usage / max(simulation.step_seconds, np.finfo(float).tiny)
    busy[links] = work[list(column_of.values())]
    return NetworkStep(simulation, folding, network, busy, tuple(rank.delays for rank in ranks), fluid.count)


def _slow_ports(network: Network) -> Floats:
    """A number for each device that tells slowed or failed links at it from usual ones."""
    links, marks = network.links, np.zeros(network.num_devices)
    usual = np.concatenate([np.tile(part.wiring.links.bytes_per_second, network.num_devices // part.num_devices)
                            for part in network.parts])  # fmt: skip
    share = links.bytes_per_second / usual
    share[list(network.failed)] = 0.0
    for ends in (links.source, links.target):
        own = (ends < network.num_devices) & (share < 1.0)
        np.add.at(marks, ends[own], 1.0 + share[own])
    return marks


def _capacity(network: Network, column_of: Mapping[int, int], background: float, num_columns: int) -> Floats:
    """What is left of each column of links: 1, less what others use between nodes."""
    capacity = np.ones(num_columns)
    outer = len(network.parts) - 1
    for link, column in column_of.items():
        if network.part_of[link] == outer:
            capacity[column] = 1.0 - background
    return capacity


def _ranks(
    program: StepProgram, prices: Prices, folding: Folding, carrier: "_Carrier", unequal: Disturbances,
    generator: np.random.Generator | None, *, dp_overlap: bool,
) -> "list[_NetworkRank]":  # fmt: skip
    """Every simulated rank, lane by lane."""
    seconds = action_seconds(program, prices)
    stage_of = {action.chunk: stage for stage, actions in enumerate(program.ranks) for action in actions}
    found: list[_NetworkRank] = []
    for lane in range(folding.num_lanes):
        pipeline = [
            _NetworkRank(lane, stage, program, prices, seconds[stage], carrier, dp_overlap)
            for stage in range(len(program.ranks))
        ]
        for rank in pipeline:
            rank.peers = {chunk: pipeline[stage] for chunk, stage in stage_of.items()}
            rank.slow_down(float(folding.slowness[rank.stage, lane]), unequal, generator)
        found += pipeline
    return found


def _simulation(program: StepProgram, prices: Prices, ranks: "list[_NetworkRank]", patterns: Patterns) -> Simulation:
    tracks = tuple(track for rank in ranks for track in rank.tracks())
    busy = [rank.recorders[Stream.COMPUTE].busy_seconds for rank in ranks]
    apart = {key for key, _, _ in patterns.of}
    kept = {
        (kind, chunk): _without(price, [part for part in AXES_OF if (part, kind, chunk) in apart])
        for (kind, chunk), price in prices.items()
    }
    step = max((float(track.end_seconds.max()) for track in tracks), default=0.0)
    return Simulation(program, kept, tracks, step, busy.index(max(busy)))


def _without(price: object, parts: list[str]) -> ActionPrice:
    """`price` without the parts that have streams of their own."""
    kept = tuple((name, seconds) for name, seconds in price.parts().items() if name not in parts)  # type: ignore[attr-defined]
    return ActionPrice(kept, tuple(price.layers))  # type: ignore[attr-defined]


@dataclass(slots=True, eq=False)
class _Meeting:
    """A message that one or several ranks join."""

    part: str
    pattern: Pattern
    left: int
    """Ranks that have not come, and streams that are not free."""
    done: simpy.Event
    seconds: float = 0.0
    ended: float = 0.0
    members: "list[_Member]" = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Member:
    rank: "_NetworkRank"
    ready: float
    """When it had come and its stream was free."""
    record: Callable[[float, float], None]


class _Carrier:
    """Takes messages from ranks to the network: each starts when all its ranks are there and their streams free."""

    def __init__(self, clock: Clock, fluid: Fluid, patterns: Patterns) -> None:
        self.clock, self.fluid, self.patterns = clock, fluid, patterns
        self.silent = Pattern(fluid.usage.shape[0] - 1, 1)
        self.meetings: dict[tuple[int, int], _Meeting] = {}
        self.sent: dict[tuple[int, Action], _Meeting | int] = {}
        """By lane and send: the message, or the place of its send where it leaves only when it is received."""
        self.waiting: dict[tuple[int, Action], simpy.Event] = {}

    def has(self, key: Key, rank: "_NetworkRank") -> bool:
        """Whether a message of this key crosses links."""
        return (key, rank.stage, rank.lane) in self.patterns.of

    def join(
        self, key: Key, rank: "_NetworkRank", seconds: float, after: list[simpy.Event | None],
        record: Callable[[float, float], None],
    ) -> _Meeting:  # fmt: skip
        """`rank` is ready for its next message of `key`, which starts after the events `after`.

        `record(start, end)` is called at its end with when the rank was ready.
        """
        pattern = self.patterns.of.get((key, rank.stage, rank.lane), self.silent)
        meeting = _Meeting(key[0], pattern, pattern.num_ranks, self.clock.event())
        if pattern.num_ranks > 1:
            number = rank.joined.get(pattern.row, 0)
            rank.joined[pattern.row] = number + 1
            meeting = self.meetings.setdefault((pattern.row, number), meeting)
        meeting.seconds = max(meeting.seconds, seconds * pattern.scale)
        member = _Member(rank, self.clock.now, record)
        meeting.members.append(member)
        pending = [event for event in after if event is not None and not event.processed]
        meeting.left += len(pending)
        for event in pending:
            event.callbacks.append(lambda _: self._arrive(meeting, member))
        self._arrive(meeting, member)
        return meeting

    def _arrive(self, meeting: _Meeting, member: _Member) -> None:
        member.ready = self.clock.now
        meeting.left -= 1
        if meeting.left:
            return
        began = self.clock.now
        flow = self.fluid.start(meeting.pattern.row, meeting.seconds)
        if meeting.part == "dp":
            for one in meeting.members:
                one.rank.change_dp(1)
        flow.callbacks.append(lambda _: self._end(meeting, began))

    def _end(self, meeting: _Meeting, began: float) -> None:
        meeting.ended = self.clock.now
        took = meeting.ended - began
        for one in meeting.members:
            one.record(one.ready, meeting.ended)
            one.rank.note(meeting.part, meeting.seconds, took - meeting.seconds, began - one.ready)
            if meeting.part == "dp":
                one.rank.change_dp(-1)
        meeting.done.succeed()


class _NetworkRank(Rank):
    """A simulated rank whose messages go over the network."""

    def __init__(
        self, lane: int, stage: int, program: StepProgram, prices: Prices, seconds: list[float], carrier: _Carrier,
        dp_overlap: bool,
    ) -> None:  # fmt: skip
        super().__init__(lane * len(program.ranks) + stage, stage, program, prices, seconds, carrier.clock, dp_overlap)
        self.lane, self.stage, self.carrier = lane, stage, carrier
        self.joined: dict[int, int] = {}
        self.num_dp, self.dp_changed = 0, carrier.clock.event()
        self.last_dp: simpy.Event | None = None
        self.last_send: simpy.Event | None = None
        self.last_receive: simpy.Event | None = None
        self.blocking: list[tuple[tuple[str, float], ...]] = []
        """By action, the parts of its price that are messages of their own."""
        self.delays: Delays = {}

    def slow_down(self, slowness: float, unequal: Disturbances, generator: np.random.Generator | None) -> None:
        """Take the messages out of the seconds of actions, and make the rest as slow as this rank is."""
        own = np.array(self.seconds)
        for index, action in enumerate(self.actions):
            parts: tuple[tuple[str, float], ...] = ()
            if action.kind not in SENDS and (action.kind, action.chunk) in self.prices:
                price = self.prices[action.kind, action.chunk].parts()
                parts = tuple((part, price[part]) for part in AXES_OF if price.get(part, 0.0) > 0.0
                              and self.carrier.has((part, action.kind, action.chunk), self))  # fmt: skip
            self.blocking.append(parts)
            own[index] -= sum(seconds for _, seconds in parts)
        computes = np.array([action.kind in COMPUTE for action in self.actions])
        own[computes] = unequal.disturbed(np.maximum(own[computes], 0.0) * slowness, generator)
        self.seconds = own.tolist()

    def note(self, part: str, alone: float, contention: float, waiting: float) -> None:
        """Count a message that ended."""
        seconds = self.delays.setdefault(part, {"alone": 0.0, "contention": 0.0, "waiting": 0.0})
        for cause, value in (("alone", alone), ("contention", max(contention, 0.0)), ("waiting", waiting)):
            seconds[cause] += value

    def change_dp(self, by: int) -> None:
        """A dp message of this rank starts or ends."""
        self.num_dp += by
        changed, self.dp_changed = self.dp_changed, self.clock.event()
        changed.succeed()

    def _compute(self, index: int, fraction: float = 1.0) -> Iterator[simpy.Event]:
        start, left, lost = self.clock.now, fraction * self.seconds[index], 0.0
        contention = self.clock.contention
        while contention > 0.0 and left > 0.0:
            speed = 1.0 - contention if self.num_dp else 1.0
            began = self.clock.now
            if speed > 0.0:
                ended = self.clock.timeout(left / speed)
                yield ended | self.dp_changed
            else:
                yield self.dp_changed
                ended = None
            passed = self.clock.now - began
            lost += (1.0 - speed) * passed
            left = 0.0 if ended is not None and ended.processed else left - speed * passed
        if left > 0.0:
            yield self.clock.timeout(left)
        self.recorders[Stream.COMPUTE].add(index, start + lost, self.clock.now)
        action = self.actions[index]
        for part, seconds in self.blocking[index]:
            record = self._recorder(_STREAMS[part], index)
            key = (part, action.kind, action.chunk)
            yield self.carrier.join(key, self, fraction * seconds, [], record).done

    def _recorder(self, stream: Stream, index: int) -> Callable[[float, float], None]:
        recorder = self.recorders[stream]
        return lambda start, end: recorder.add(index, start, end)

    def _post(self, index: int, seconds: float) -> Mark:
        if seconds <= 0.0:
            return self.clock.now
        key = ("dp", Kind.REDUCE_GRADIENTS, self.actions[index].chunk)
        record = self._recorder(Stream.DP, index)
        self.last_dp = self.carrier.join(key, self, seconds, [self.last_dp], record).done
        return self.last_dp

    def _last_message(self) -> Mark:
        return self.last_dp or self.clock.now

    def _send(self, index: int, action: Action) -> None:
        found = (self.lane, action)
        if self.clock.pp_overlap:
            receiver = self.peers[action.chunk + (1 if action.kind is Kind.SEND_FORWARD else -1)]
            assert isinstance(receiver, _NetworkRank)
            meeting = self._transfer(index, action, [self.last_send, receiver.last_receive])
            self.last_send = receiver.last_receive = meeting.done
            self.carrier.sent[found] = meeting
        else:
            self.carrier.sent[found] = index
        if found in self.carrier.waiting:
            self.carrier.waiting.pop(found).succeed()

    def _transfer(self, index: int, action: Action, after: list[simpy.Event | None]) -> _Meeting:
        key = ("pp", action.kind, action.chunk)
        return self.carrier.join(key, self, self.seconds[index], after, self._recorder(Stream.PP_SEND, index))

    def _receive(self, index: int, action: Action) -> Iterator[simpy.Event]:
        send = matching_send(action)
        found = (self.lane, send)
        if found not in self.carrier.sent:
            self.waiting_for = send
            self.carrier.waiting[found] = self.clock.event()
            yield self.carrier.waiting[found]
            self.waiting_for = None
        meeting = self.carrier.sent.pop(found)
        if isinstance(meeting, int):
            sender = self.peers[send.chunk]
            assert isinstance(sender, _NetworkRank)
            meeting = sender._transfer(meeting, send, [sender.last_send, self.last_send])
            sender.last_send = self.last_send = meeting.done
        yield meeting.done
        self.recorders[Stream.PP_RECEIVE].add(index, meeting.members[0].ready, meeting.ended)
