"""What every rank did and when: spans on the streams of the ranks, the breakdown they add up to, and a trace file."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from planner.breakdown import PARTS, Breakdown
from planner.work.actions import RECEIVES, Action, Kind, matching_send
from profiles.units import MICRO

Floats = NDArray[np.float64]


class Stream(IntEnum):
    """What a rank does at the same time: compute, and messages by axis and direction."""

    COMPUTE = 0
    """Forwards, backwards and optimizer steps, with the tp, cp and ep messages that block them."""
    PP_SEND = 1
    PP_RECEIVE = 2
    DP = 3
    """Gradient reduction and parameter gather."""
    TP = 4
    """Messages that block compute, apart where a network is simulated."""
    CP = 5
    EP = 6

    @property
    def label(self) -> str:
        """The name a person reads."""
        return ("compute", "pp send", "pp receive", "dp", "tp", "cp", "ep")[self]


class LayerPrice(Protocol):
    """One layer of a forward or backward that carries messages layer by layer."""

    @property
    def compute_fraction(self) -> float:
        """Its share of the action's seconds."""

    @property
    def gather_seconds(self) -> float:
        """Message it waits for."""

    @property
    def reduce_seconds(self) -> float:
        """Message it makes."""


class Price(Protocol):
    """Seconds of one action, and the parts of a `Breakdown` they fall into (part name -> seconds)."""

    @property
    def total_seconds(self) -> float:
        """The sum of the parts."""

    @property
    def layers(self) -> Sequence[LayerPrice]:
        """Its layers in the order they run, where they carry messages of their own."""

    def parts(self) -> Mapping[str, float]:
        """Part name -> seconds, in the order they run."""


Prices = Mapping[tuple[Kind, int], Price]
"""By (kind, chunk). A receive has none: it takes as long as its message."""


@dataclass(frozen=True, slots=True)
class Track:
    """The spans of one stream of one rank, in order of their starts."""

    rank: int
    stream: Stream
    actions: tuple[Action, ...]
    """The rank's program, which `index` points into."""
    index: NDArray[np.int32]
    start_seconds: Floats
    end_seconds: Floats

    def __len__(self) -> int:
        return len(self.index)

    def spans(self) -> Iterator[tuple[Action, float, float]]:
        """(action, start, end) of every span."""
        starts, ends = self.start_seconds.tolist(), self.end_seconds.tolist()
        for index, start, end in zip(self.index.tolist(), starts, ends, strict=True):
            yield self.actions[index], start, end

    @property
    def busy_seconds(self) -> float:
        """Time the stream is in use."""
        return float(np.sum(self.end_seconds - self.start_seconds))


_EXPOSED = {
    "tp": (Stream.TP,), "cp": (Stream.CP,), "ep": (Stream.EP,), "pp": (Stream.PP_SEND, Stream.PP_RECEIVE),
    "dp": (Stream.DP,),
}  # fmt: skip
"""Streams by the part of a breakdown that they are exposed in."""


def rank_breakdown(tracks: Sequence[Track], rank: int, prices: Prices, step_seconds: float) -> Breakdown:
    """Where the step's time goes on `rank`; the parts sum to `step_seconds`.

    Compute spans are divided as their prices are. The messages of an axis are exposed while no compute span, and no
    message of an axis before it in the order tp, cp, ep, pp, dp, is beside them; idle is the rest.
    """
    own = {track.stream: track for track in tracks if track.rank == rank}
    seconds = dict.fromkeys(PARTS, 0.0)
    if Stream.COMPUTE in own:
        for part, value in _compute_parts(own[Stream.COMPUTE], prices).items():
            seconds[part] += value
    counted: tuple[Stream, ...] = (Stream.COMPUTE,)
    covered = _covered_seconds(own, counted)
    for part, streams in _EXPOSED.items():
        if any(stream in own for stream in streams):
            counted = (*counted, *streams)
            further = _covered_seconds(own, counted)
            seconds[part] += max(0.0, further - covered)
            covered = further
    seconds["idle"] = max(0.0, step_seconds - sum(seconds.values()))
    return Breakdown(**{f"{part}_seconds": value for part, value in seconds.items()})


def _compute_parts(track: Track, prices: Prices) -> dict[str, float]:
    """Part name -> seconds of a compute track: each span in the proportions of its action's price."""
    keys: dict[tuple[Kind, int], int] = {}
    key_of = np.array([keys.setdefault((action.kind, action.chunk), len(keys)) for action in track.actions])
    durations = track.end_seconds - track.start_seconds
    totals = np.bincount(key_of[track.index], weights=durations, minlength=len(keys))
    seconds: dict[str, float] = {}
    for key, total in zip(keys, totals.tolist(), strict=True):
        if total > 0.0:
            for part, value in prices[key].parts().items():
                share = value / prices[key].total_seconds
                seconds[part] = seconds.get(part, 0.0) + share * total
    return seconds


def _covered_seconds(own: Mapping[Stream, Track], streams: tuple[Stream, ...]) -> float:
    """Time during which at least one of `streams` is in use."""
    chosen = [own[stream] for stream in streams if stream in own]
    if not chosen:
        return 0.0
    starts = np.concatenate([track.start_seconds for track in chosen])
    ends = np.concatenate([track.end_seconds for track in chosen])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    reached = np.concatenate(([-np.inf], np.maximum.accumulate(ends)[:-1]))
    return float(np.sum(np.maximum(0.0, ends - np.maximum(starts, reached))))


def trace_events(
    tracks: Sequence[Track], prices: Prices, *, arrows: bool = True, num_stages: int = 0,
    name_of: Callable[[int], str] = "rank {}".format,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Events of the Chrome trace format: a process a rank, a thread a stream, microseconds.

    With `arrows`, flow events join every send to its receive, within each pipeline of `num_stages` ranks (0: there is
    one). `name_of` says what a rank is called. Perfetto and chrome://tracing read it
    [Trace Event Format, Google, 2016].
    """
    for track in tracks:
        place = {"ph": "M", "pid": track.rank, "tid": int(track.stream)}
        yield place | {"name": "process_name", "args": {"name": name_of(track.rank)}}
        yield place | {"name": "process_sort_index", "args": {"sort_index": track.rank}}
        yield place | {"name": "thread_name", "args": {"name": track.stream.label}}
        yield place | {"name": "thread_sort_index", "args": {"sort_index": int(track.stream)}}
    flow_of: dict[tuple[int, Action], int] = {}
    counter = itertools.count()
    for track in tracks:
        for action, start, end in track.spans():
            event = {
                "ph": "X", "pid": track.rank, "tid": int(track.stream), "name": str(action), "cat": track.stream.label,
                "ts": start / MICRO, "dur": (end - start) / MICRO,
            }  # fmt: skip
            if track.stream is Stream.COMPUTE:
                event["args"] = dict(prices[action.kind, action.chunk].parts())
            yield event
            if arrows and track.stream in (Stream.PP_SEND, Stream.PP_RECEIVE):
                receives = action.kind in RECEIVES
                pipeline = track.rank // num_stages if num_stages else 0
                send = (pipeline, matching_send(action) if receives else action)
                flow = flow_of[send] if send in flow_of else flow_of.setdefault(send, next(counter))
                yield {
                    "ph": "f" if receives else "s", "bp": "e", "id": flow, "pid": track.rank, "tid": int(track.stream),
                    "name": "message", "cat": "pp", "ts": (start + end) / 2.0 / MICRO,
                }  # fmt: skip


def write_trace(path: str | Path, tracks: Sequence[Track], prices: Prices, **options: Any) -> None:
    """Write `trace_events`, with its options, as a JSON file, whole or not at all."""
    write_events(path, trace_events(tracks, prices, **options))


def write_events(path: str | Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Write events of the Chrome trace format as a JSON file, one a line, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [')
            for count, event in enumerate(events):
                file.write((",\n" if count else "\n") + json.dumps(event))
            file.write("\n]}\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
