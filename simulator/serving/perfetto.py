"""A simulation of serving as a trace file for ui.perfetto.dev: batches by replica, counters, and requests."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from profiles.units import MICRO
from simulator.serving.result import Played
from simulator.serving.timeline import Timeline

COUNTERS = ((1, "waiting requests"), (2, "running requests"), (3, "memory in use"))
"""Column of a sample, and what it is called."""
MAX_REQUESTS = 20_000
"""Requests with a span of their own; of more, so many evenly chosen ones."""
REQUESTS = 9_999_999
"""Process that holds their spans, beyond the numbers of all replicas."""


def serving_events(played: Played, timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Events of the Chrome trace format: a process a loop with its batches and counters, and one of the requests.

    Times are microseconds [Trace Event Format, Google, 2016].
    """
    for loop, samples in sorted(timeline.samples.items()):
        yield {"ph": "M", "pid": loop, "name": "process_name", "args": {"name": f"loop {loop}"}}
        seconds = samples.columns[0]
        for column, name in COUNTERS:
            for at, value in zip(seconds, samples.columns[column], strict=True):
                yield {"ph": "C", "pid": loop, "name": name, "ts": at / MICRO, "args": {name: value}}
    for batch in timeline.batches:
        kinds = [f"{batch.prefill_tokens:,} prompt tokens"] if batch.prefill_tokens else []
        kinds += [f"{batch.num_iterations} x {batch.num_decodes} decodes"] if batch.num_decodes else []
        yield {
            "ph": "X", "pid": batch.loop, "tid": 0, "name": ", ".join(kinds), "cat": "batch",
            "ts": batch.begin_seconds / MICRO, "dur": (batch.end_seconds - batch.begin_seconds) / MICRO,
        }  # fmt: skip
    yield {"ph": "M", "pid": REQUESTS, "name": "process_name", "args": {"name": "requests"}}
    answered = np.flatnonzero(np.isfinite(played.last_token_seconds))
    chosen = answered[:: max(1, -(-len(answered) // MAX_REQUESTS))]
    for request in chosen.tolist():
        yield from _request_events(played, request)


def _request_events(played: Played, request: int) -> Iterator[dict[str, Any]]:
    """Until its first token, and from there to its last, one above the other requests of that time."""
    requests = played.requests
    times = (played.arrival_seconds[request], played.first_token_seconds[request], played.last_token_seconds[request])
    facts = {
        "input tokens": int(requests.input_tokens[request]), "output tokens": int(requests.output_tokens[request]),
        "tokens found in a cache": int(played.cached_tokens[request]), "replica": int(played.replica[request]),
        "preemptions": int(played.num_preemptions[request]),
    }  # fmt: skip
    for name, begin, end in (("first token", times[0], times[1]), ("other tokens", times[1], times[2])):
        place = {"cat": "request", "pid": REQUESTS, "id": request, "name": f"request {request}: {name}"}
        yield place | {"ph": "b", "ts": float(begin) / MICRO, "args": facts}
        yield place | {"ph": "e", "ts": float(end) / MICRO}
