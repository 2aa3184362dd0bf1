"""What replicas were doing over time: queues, running requests and memory as samples, and their batches as spans."""

from array import array
from dataclasses import dataclass

import numpy as np

from simulator.serving.batcher import Batcher
from simulator.serving.gaps import Gaps
from simulator.serving.requests import Floats

MAX_SAMPLES = 16_384
"""A replica that has more keeps every second one, as often as needed."""
MAX_BATCHES = 200_000
"""Batches kept for a trace file, of all replicas; later ones are only counted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, or a run of decoding iterations."""

    loop: int
    begin_seconds: float
    end_seconds: float
    num_iterations: int
    num_decodes: int
    prefill_tokens: int


class Samples:
    """State of one loop after some of its batches."""

    __slots__ = ("_every", "_skipped", "columns")

    def __init__(self) -> None:
        self.columns = tuple(array("d") for _ in range(4))
        """Seconds, waiting requests, admitted requests, share of memory in use."""
        self._every, self._skipped = 1, 0

    def add(self, seconds: float, loop: Batcher) -> None:
        """Look at `loop`."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        waiting = len(loop.waiting) + len(loop.inbox)
        used = loop.blocks.used / loop.blocks.num_blocks
        for column, value in zip(self.columns, (seconds, waiting, loop.num_admitted, used), strict=True):
            column.append(value)
        if len(self.columns[0]) >= MAX_SAMPLES:
            self._every *= 2
            self.columns = tuple(column[::2] for column in self.columns)


class Timeline:
    """Everything that is recorded of a simulation, by the number of the loop."""

    def __init__(self, *, keeps_batches: bool = False) -> None:
        self.samples: dict[int, Samples] = {}
        self.replica_of: dict[int, int] = {}
        self.batches: list[Batch] = []
        self.num_left_out = 0
        """Batches beyond `MAX_BATCHES`."""
        self.busy_seconds: dict[int, float] = {}
        self.gaps = Gaps()
        """Between tokens of all requests, guessed tokens as one."""
        self._token_seconds: dict[int, list[tuple[float, int]]] = {}
        """Of each loop when its running requests made their last token, and how many; the first are the rest."""
        self._keeps_batches = keeps_batches

    def ends(self, loop: Batcher, now: float) -> None:
        """The batch in flight of `loop` ends; called before it is accounted for."""
        run = loop.run
        assert run is not None
        self.busy_seconds[loop.number] = self.busy_seconds.get(loop.number, 0.0) + now - run.begin_seconds
        self._stream(loop, now)
        if not self._keeps_batches:
            return
        if len(self.batches) == MAX_BATCHES:
            self.num_left_out += 1
            return
        decodes = len(loop.running) if loop.decodes else 0
        tokens = sum(new for _, new, _ in loop.prefills)
        self.batches.append(Batch(loop.number, run.begin_seconds, now, run.num_iterations, decodes, tokens))

    def _stream(self, loop: Batcher, now: float) -> None:
        """Count the gaps before the tokens of the batch in flight; the first holds all since the last ones."""
        run, running = loop.run, len(loop.running)
        assert run is not None
        waiting = self._token_seconds.setdefault(loop.number, [])
        if not loop.decodes:
            complete = sum(request != loop.partial for request, _, _ in loop.prefills)
            waiting.append((now, complete))
            return
        ended, earliest = run.end_seconds(1), running
        for seconds, count in waiting[1:]:
            earliest -= count
            self.gaps.add(ended - seconds, 0.0, 1, count)
        self.gaps.add(ended - (waiting[0][0] if waiting else run.begin_seconds), 0.0, 1, max(earliest, 0))
        later = run.first_seconds + run.longer_seconds
        self.gaps.add(later, run.longer_seconds, run.num_iterations - 1, running)
        self._token_seconds[loop.number] = [(now, running)]

    def look(self, loop: Batcher, now: float) -> None:
        """A sample of `loop` after a batch."""
        if not len(loop.running):
            self._token_seconds.pop(loop.number, None)
        if loop.number not in self.samples:
            self.samples[loop.number] = Samples()
        self.samples[loop.number].add(now, loop)

    def column(self, which: int, loops: list[int], at_seconds: Floats) -> Floats:
        """A column of each of `loops` at given times, shape (loops, times): the sample before, 0 before the first."""
        rows = []
        for loop in loops:
            seconds, values = (np.array(self.samples[loop].columns[index]) for index in (0, which))
            before = np.searchsorted(seconds, at_seconds, side="right")
            rows.append(np.concatenate(([0.0], values))[before])
        return np.array(rows).reshape(len(loops), len(at_seconds))
