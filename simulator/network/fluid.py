"""Messages on their way: each has work in seconds of its time alone, and a speed of at most 1 that links leave it."""

import heapq
import sys
from dataclasses import dataclass, field

import numpy as np
import simpy
from numpy.typing import NDArray
from scipy import sparse

from simulator.network.sharing import filled_rates

Floats = NDArray[np.float64]
_LAST = sys.maxsize
"""Priority after all ranks: speeds are found once everything that starts or ends at a time has done so."""
_SLACK = 1e-9


@dataclass(slots=True, eq=False)
class _Message:
    number: int
    row: int
    left: float
    done: simpy.Event
    speed: float = 0.0
    since: float = 0.0
    version: int = 0


@dataclass(slots=True, eq=False)
class Fluid:
    """Messages in max-min fair shares of `capacity` (links,), each using the links of its row of `usage`."""

    clock: simpy.Environment
    usage: sparse.csr_array
    capacity: Floats
    work_seconds: Floats = field(init=False)
    """Work done by row."""
    load: Floats = field(init=False)
    active: dict[int, _Message] = field(default_factory=dict)
    started: list[_Message] = field(default_factory=list)
    touched: bool = False
    count: int = 0
    end_seconds: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, number, version): out of date where the version is not the message's."""
    wake_seconds: float = np.inf
    changed: set[int] = field(default_factory=set)
    """Rows that started or ended since speeds were last found."""
    congested: NDArray[np.bool_] = field(init=False)
    """Links that were asked for more than they have when speeds were last found."""

    def __post_init__(self) -> None:
        self.work_seconds = np.zeros(self.usage.shape[0])
        self.load = np.zeros(self.usage.shape[1])
        self.congested = np.zeros(self.usage.shape[1], dtype=bool)

    def start(self, row: int, seconds: float) -> simpy.Event:
        """Send a message now; the event of its end."""
        message = _Message(self.count, row, seconds, self.clock.event(), since=self.clock.now)
        self.count += 1
        if seconds <= 0.0:
            message.done.succeed()
            return message.done
        self.work_seconds[row] += seconds
        self.active[message.number] = message
        self.started.append(message)
        self._put_on_links(row, 1.0)
        self._touch()
        return message.done

    def _put_on_links(self, row: int, sign: float) -> None:
        low, high = self.usage.indptr[row], self.usage.indptr[row + 1]
        self.load[self.usage.indices[low:high]] += sign * self.usage.data[low:high]
        self.changed.add(row)

    def _crosses(self, row: int, links: NDArray[np.bool_]) -> bool:
        return bool(links[self.usage.indices[self.usage.indptr[row] : self.usage.indptr[row + 1]]].any())

    def _touch(self) -> None:
        if not self.touched:
            self.touched = True
            self._at(self.clock.now, self._settle)

    def _at(self, time: float, call: object) -> None:
        event = simpy.Event(self.clock)
        event._ok, event._value = True, None
        event.callbacks.append(lambda _: call())  # type: ignore[operator]
        simpy.Environment.schedule(self.clock, event, _LAST, max(time - self.clock.now, 0.0))

    def _settle(self) -> None:
        """Give every message the speed that it now has; only those change that meet others on a congested link."""
        self.touched = False
        congested = self.load > self.capacity * (1.0 + _SLACK)
        concerned = self.congested | congested
        if concerned.any() and any(self._crosses(row, concerned) for row in sorted(self.changed)):
            self._share(congested)
        else:
            for message in self.started:
                if message.number in self.active:
                    self._run_at(message, 1.0)
        self.congested = congested
        self.started.clear()
        self.changed.clear()
        self._wake_next()

    def _share(self, congested: NDArray[np.bool_]) -> None:
        """Full speed for messages off the congested links, fair shares for the others."""
        held: dict[int, int] = {}
        for message in self.active.values():
            held[message.row] = held.get(message.row, 0) + 1
        speeds = dict.fromkeys(held, 1.0)
        rows = [row for row in held if self._crosses(row, congested)]
        if rows:
            spans = [slice(self.usage.indptr[row], self.usage.indptr[row + 1]) for row in rows]
            flow = np.repeat(np.arange(len(rows)), [span.stop - span.start for span in spans])
            link = np.concatenate([self.usage.indices[span] for span in spans])
            taken = np.concatenate([self.usage.data[span] for span in spans])
            taken = taken * np.array([held[row] for row in rows], dtype=float)[flow]
            kept = congested[link]
            column = np.cumsum(congested)[link[kept]] - 1
            found = filled_rates(flow[kept], column, taken[kept], self.capacity[congested], np.ones(len(rows)))
            speeds.update(zip(rows, found.tolist(), strict=True))
        for message in self.active.values():
            if speeds[message.row] != message.speed:
                self._run_at(message, speeds[message.row])

    def _run_at(self, message: _Message, speed: float) -> None:
        now = self.clock.now
        message.left -= message.speed * (now - message.since)
        message.speed, message.since = speed, now
        message.version += 1
        heapq.heappush(self.end_seconds, (now + max(message.left, 0.0) / speed, message.number, message.version))

    def _wake_next(self) -> None:
        while self.end_seconds and not self._is_current(self.end_seconds[0]):
            heapq.heappop(self.end_seconds)
        if self.end_seconds and (self.end_seconds[0][0] < self.wake_seconds or self.wake_seconds < self.clock.now):
            self.wake_seconds = self.end_seconds[0][0]
            self._at(self.wake_seconds, self._finish)

    def _is_current(self, end: tuple[float, int, int]) -> bool:
        message = self.active.get(end[1])
        return message is not None and message.version == end[2]

    def _finish(self) -> None:
        """End the messages whose time has come."""
        now = self.clock.now
        limit = now + 1e-12 * max(now, 1e-6)
        ended = False
        while self.end_seconds and (self.end_seconds[0][0] <= limit or not self._is_current(self.end_seconds[0])):
            end = heapq.heappop(self.end_seconds)
            if self._is_current(end):
                message = self.active.pop(end[1])
                self._put_on_links(message.row, -1.0)
                message.done.succeed()
                ended = True
        self.wake_seconds = np.inf
        if ended:
            self._touch()
        else:
            self._wake_next()
