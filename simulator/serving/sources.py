"""When the next request arrives: at its own time, or when a client of a closed loop has its answer."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from simulator.serving.requests import ClosedLoop, Floats, Ints

Arrival = tuple[float, int]
"""(seconds, request)."""


class Source(Protocol):
    """Arrivals, as far as they are known."""

    def first(self) -> Iterator[Arrival]:
        """Those that depend on nothing."""

    def after_arrival(self) -> Iterator[Arrival]:
        """Those that are told of only now, so that few are kept in order at a time."""

    def after_answer(self, seconds: float) -> Iterator[Arrival]:
        """Those that waited for an answer, which comes at `seconds`."""


class OpenLoop:
    """Requests arrive when they do."""

    def __init__(self, arrival_seconds: Floats, requests: Ints) -> None:
        self._arrivals = _each(arrival_seconds, requests)

    def first(self) -> Iterator[Arrival]:
        """The first of all."""
        return self.after_arrival()

    def after_arrival(self) -> Iterator[Arrival]:
        """The next one."""
        arrival = next(self._arrivals, None)
        if arrival is not None:
            yield arrival

    def after_answer(self, seconds: float) -> Iterator[Arrival]:
        """None: nobody waits."""
        return iter(())


def _each(arrival_seconds: Floats, requests: Ints) -> Iterator[Arrival]:
    """Times and numbers, a part of the arrays at a time."""
    part = 65_536
    for begin in range(0, len(requests), part):
        numbers = requests[begin : begin + part]
        yield from zip(arrival_seconds[numbers].tolist(), numbers.tolist(), strict=True)


class Clients:
    """A closed loop: a fixed number of clients, each with one request under way."""

    def __init__(self, loop: ClosedLoop, requests: Ints) -> None:
        self._loop, self._requests = loop, requests.tolist()
        self._count = len(requests)
        if loop.num_warmup >= self._count:
            raise ValueError(f"warmup: {loop.num_warmup} of {self._count} requests leave none that counts")
        self._next = 0
        self._answered = 0

    def first(self) -> Iterator[Arrival]:
        """The first request of each client, of the warm-up if there is one."""
        warmup = self._loop.num_warmup
        yield from self._wave(0.0, warmup or self._count, 0.0 if warmup else self._loop.ramp_seconds)

    def after_arrival(self) -> Iterator[Arrival]:
        """None: those are known that can be."""
        return iter(())

    def after_answer(self, seconds: float) -> Iterator[Arrival]:
        """The next request of the client that got its answer, or all first ones when the warm-up is over."""
        self._answered += 1
        warmup = self._loop.num_warmup
        if self._answered == warmup:
            yield from self._wave(seconds, self._count, self._loop.ramp_seconds)
        elif self._next < (warmup if self._answered < warmup else self._count):
            self._next += 1
            yield seconds + self._loop.think_seconds, self._requests[self._next - 1]

    def _wave(self, seconds: float, end: int, ramp_seconds: float) -> Iterator[Arrival]:
        """A request of each client, as long as there are any before `end`."""
        begin = self._next
        self._next = min(begin + self._loop.concurrency, end)
        for client, delay in enumerate(np.arange(self._next - begin) * ramp_seconds):
            yield seconds + float(delay), self._requests[begin + client]
