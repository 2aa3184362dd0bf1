"""A job over weeks: interruptions, checkpoints, restarts, spare nodes; every draw from one passed generator.

Found by playing events, independently of the closed forms in `planner.cost.goodput`.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np

from planner.cost.goodput import Checkpoints, Goodput, Interruptions

PARTS = ("useful", "checkpoint", "lost", "restart", "waiting")


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a job and what happens when one is lost."""

    num_nodes: int
    """Nodes the whole job runs on."""
    num_spares: int
    num_replicas: int = 1
    """Data-parallel replicas, dealt out evenly to the nodes; a smaller job runs fewer of them."""
    loss_fraction: float = 1.0
    """Share of interruptions that take a node."""
    repair_seconds: float = 0.0
    elastic: bool = False
    """Go on with fewer replicas while nodes are missing, instead of waiting for one to be repaired."""
    switch_fraction: float = 0.0
    """Share of interruptions that are faults of a switch, which take all its nodes at once."""
    nodes_per_switch: int = 1
    switch_repair_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerCopies:
    """Copies of the state in the memory of other nodes, beside checkpoints on storage.

    They outlive the loss of a node and faults that take none, not that of a switch, under which a node and its peer may
    both lie [Wang 2023, Gemini, doi:10.1145/3600006.3613145, sections 4 and 5].
    """

    interval_seconds: float
    """Work between two copies."""
    stall_seconds: float
    """The job stands still so long at each; 0 where the copy travels beside the steps."""
    restart_seconds: float
    """From an interruption to the first new step where the copies are used."""


@dataclass(frozen=True, slots=True)
class LongRun:
    """What happened in a run of `horizon_seconds`."""

    horizon_seconds: float
    seconds: dict[str, float]
    """By part, in the order of PARTS; they sum to the horizon."""
    num_interruptions: int

    @property
    def goodput(self) -> Goodput:
        """The parts as shares."""
        return Goodput(**{f"{part}_fraction": self.seconds[part] / self.horizon_seconds for part in PARTS})


def play_long_run(
    horizon_seconds: float, stops: Interruptions, saves: Checkpoints, nodes: Nodes, rng: np.random.Generator,
    copies: PeerCopies | None = None,
) -> LongRun:  # fmt: skip
    """Play `horizon_seconds` of a job; the first restart is not counted, the last run may be cut off.

    A lost node is replaced by a spare at once. Without one the job waits for the first repair or, if it is
    elastic, restarts with the replicas that the remaining nodes carry; it grows back at a later restart, which
    a repaired node causes after a checkpoint. Interruptions come in proportion to the nodes at work. With `copies` an
    interruption that leaves them loses only what was done since the last one.
    """
    return _Job(horizon_seconds, stops, saves, nodes, rng, copies).play()


@dataclass(slots=True)
class _Job:
    horizon: float
    stops: Interruptions
    saves: Checkpoints
    nodes: Nodes
    rng: np.random.Generator
    copies: PeerCopies | None = None
    now: float = 0.0
    unsaved: float = 0.0
    """Work, counted as useful, that lies in copies of peers but on no storage yet."""
    unsaved_speed: float = 1.0
    num_interruptions: int = 0
    repairs: list[float] = field(default_factory=list)
    """Times at which nodes come back, a heap."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def play(self) -> LongRun:
        """Run, be interrupted, restart, until the horizon."""
        while self.now < self.horizon:
            has_copies = self._run()
            by_hand = self._waits_for_a_person()
            while self.now < self.horizon and not self._restart(has_copies=has_copies, by_hand=by_hand):
                has_copies = self._fault() and has_copies
        return LongRun(self.horizon, self.seconds, self.num_interruptions)

    def _count_missing(self) -> int:
        """Nodes that the job lacks now; forgets those that are back."""
        while self.repairs and self.repairs[0] <= self.now:
            heapq.heappop(self.repairs)
        return max(0, len(self.repairs) - self.nodes.num_spares)

    def _speed(self) -> float:
        """Replicas at work as a share of all; 0 when the job must wait."""
        missing = self._count_missing()
        if not missing:
            return 1.0
        left = self.nodes.num_replicas * (self.nodes.num_nodes - missing) // self.nodes.num_nodes
        return max(left, 0) / self.nodes.num_replicas if self.nodes.elastic else 0.0

    def _spend(self, part: str, duration: float) -> None:
        """Let `duration` pass under a part's name, up to the horizon."""
        passed = min(duration, self.horizon - self.now)
        self.seconds[part] += passed
        self.now += passed

    def _until_interruption(self) -> float:
        share = 1.0 - self._count_missing() / self.nodes.num_nodes
        return float(self.rng.exponential(self.stops.seconds_between / share))

    def _run(self) -> bool:
        """Steps and checkpoints until the job is interrupted or stops to take a node back; whether copies are left."""
        speed, until = self._speed(), self._until_interruption()
        if speed < 1.0 and self._next_repair() <= until:
            self._account(self._next_repair(), speed, lost_after=0.0)
            self._spend("checkpoint", self.saves.stall_seconds)
            self.unsaved = 0.0
            return True
        if self.now + until >= self.horizon:
            self._account(until, speed, lost_after=0.0)
            return True
        began = self.now + until
        has_copies = self._fault(began)
        granularity = self.copies.interval_seconds if self.copies and has_copies else np.inf
        self._account(until, speed, lost_after=granularity)
        if not has_copies:
            self._forget()
        return has_copies

    def _next_repair(self) -> float:
        """Seconds until the next node comes back."""
        return max(0.0, self.repairs[0] - self.now)

    def _account(self, duration: float, speed: float, *, lost_after: float) -> None:
        """Divide a run of `duration` into kept work, stalls and what is lost.

        Of the work since the last checkpoint that counts, whole multiples of `lost_after` are kept: 0 keeps all of it,
        inf none.
        """
        duration = min(duration, self.horizon - self.now)
        pace = 1.0
        if self.copies is not None:
            pace = self.copies.interval_seconds / (self.copies.interval_seconds + self.copies.stall_seconds)
        stall, interval = self.saves.stall_seconds, self.saves.interval_seconds
        first = max(interval - self.unsaved, 0.0) / pace + stall
        cycle = interval / pace + stall
        usable = max(0.0, duration - self.saves.write_seconds)
        num_saved = 0 if usable < first else 1 + int((usable - first) // cycle)
        saved = num_saved * interval - (self.unsaved if num_saved else 0.0)
        rest = duration - saved / pace - num_saved * stall
        since = (0.0 if num_saved else self.unsaved) + rest * pace
        kept = since if lost_after == 0.0 else since - since % lost_after
        kept = max(kept - (0.0 if num_saved else self.unsaved), 0.0)
        self._spend("useful", (saved + kept) * speed)
        self._spend("waiting", (saved + kept) * (1.0 - speed))
        self._spend("checkpoint", num_saved * stall + (saved + kept) * (1.0 / pace - 1.0))
        self._spend("lost", rest - kept / pace)
        self.unsaved = kept + (0.0 if num_saved else self.unsaved)
        self.unsaved_speed = speed

    def _forget(self) -> None:
        """Lose what was kept in the memory of peers only."""
        gone = min(self.unsaved * self.unsaved_speed, self.seconds["useful"])
        self.seconds["useful"] -= gone
        self.seconds["lost"] += gone
        self.unsaved = 0.0

    def _fault(self, when: float | None = None) -> bool:
        """Count an interruption and take its nodes; whether copies in the memory of peers outlive it."""
        self.num_interruptions += 1
        when = self.now if when is None else when
        draw, nodes = self.rng.random(), self.nodes
        if draw < nodes.switch_fraction:
            for _ in range(nodes.nodes_per_switch if nodes.switch_repair_seconds > 0.0 else 0):
                heapq.heappush(self.repairs, when + nodes.switch_repair_seconds)
            self._forget()
            return False
        if draw < nodes.switch_fraction + nodes.loss_fraction and nodes.repair_seconds > 0.0:
            heapq.heappush(self.repairs, when + nodes.repair_seconds)
        return self.copies is not None

    def _restart(self, *, has_copies: bool, by_hand: bool) -> bool:
        """Wait for nodes if it must, then restart; False if that was interrupted."""
        seconds = self._restart_seconds(has_copies=has_copies, by_hand=by_hand)
        while self._speed() == 0.0 and self.now < self.horizon:
            self._spend("waiting", self._next_repair())
        if self.now >= self.horizon:
            return True
        until = self._until_interruption()
        finished = until >= seconds
        self._spend("restart", seconds if finished else until)
        return finished

    def _waits_for_a_person(self) -> bool:
        """Whether the coming restart does, however often it is interrupted."""
        share = float(self.stops.manual_fraction)
        return share > 0.0 and self.rng.random() < share

    def _restart_seconds(self, *, has_copies: bool, by_hand: bool) -> float:
        if by_hand:
            return float(self.stops.manual_seconds)
        return self.copies.restart_seconds if self.copies and has_copies else float(self.stops.restart_seconds)
