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
    horizon_seconds: float, stops: Interruptions, saves: Checkpoints, nodes: Nodes, rng: np.random.Generator
) -> LongRun:
    """Play `horizon_seconds` of a job; the first restart is not counted, the last run may be cut off.

    A lost node is replaced by a spare at once. Without one the job waits for the first repair or, if it is
    elastic, restarts with the replicas that the remaining nodes carry; it grows back at a later restart, which
    a repaired node causes after a checkpoint. Interruptions come in proportion to the nodes at work.
    """
    return _Job(horizon_seconds, stops, saves, nodes, rng).play()


@dataclass(slots=True)
class _Job:
    horizon: float
    stops: Interruptions
    saves: Checkpoints
    nodes: Nodes
    rng: np.random.Generator
    now: float = 0.0
    num_interruptions: int = 0
    repairs: list[float] = field(default_factory=list)
    """Times at which nodes come back, a heap."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def play(self) -> LongRun:
        """Run, be interrupted, restart, until the horizon."""
        while self.now < self.horizon:
            interrupted = self._run()
            if self.now < self.horizon and interrupted:
                self._lose_node()
            while self.now < self.horizon and not self._restart():
                self._lose_node()
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
        """Steps and checkpoints until the job is interrupted (True) or stops to take a node back (False)."""
        speed, until = self._speed(), self._until_interruption()
        if speed < 1.0 and self._next_repair() <= until:
            self._account(self._next_repair(), speed, is_all_kept=True)
            self._spend("checkpoint", self.saves.stall_seconds)
            return False
        self._account(until, speed, is_all_kept=self.now + until >= self.horizon)
        return True

    def _next_repair(self) -> float:
        """Seconds until the next node comes back."""
        return max(0.0, self.repairs[0] - self.now)

    def _account(self, duration: float, speed: float, *, is_all_kept: bool) -> None:
        """Divide a run of `duration` into kept work, checkpoints and what is lost."""
        duration = min(duration, self.horizon - self.now)
        cycle = self.saves.interval_seconds + self.saves.stall_seconds
        num_saved = int(max(0.0, duration - self.saves.write_seconds) // cycle)
        rest = duration - num_saved * cycle
        work = num_saved * self.saves.interval_seconds + (rest if is_all_kept else 0.0)
        self._spend("useful", work * speed)
        self._spend("waiting", work * (1.0 - speed))
        self._spend("checkpoint", num_saved * self.saves.stall_seconds)
        if not is_all_kept:
            self._spend("lost", rest)

    def _lose_node(self) -> None:
        self.num_interruptions += 1
        if self.rng.random() < self.nodes.loss_fraction and self.nodes.repair_seconds > 0.0:
            heapq.heappush(self.repairs, self.now + self.nodes.repair_seconds)

    def _restart(self) -> bool:
        """Wait for nodes if it must, then restart; False if that was interrupted."""
        while self._speed() == 0.0 and self.now < self.horizon:
            self._spend("waiting", self._next_repair())
        if self.now >= self.horizon:
            return True
        until = self._until_interruption()
        finished = until >= self.stops.restart_seconds
        self._spend("restart", self.stops.restart_seconds if finished else until)
        return finished
