"""Schedules with whole backward passes: GPipe, 1F1B, interleaved 1F1B and breadth-first."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import numpy as np

from planner.work.actions import Action, Kind
from planner.work.schedules.registry import CHUNKS, ONE_CHUNK, Requirement, schedule

Numbers = Any
_WHOLE_GROUPS = Requirement("needs a multiple of pp microbatches", lambda p, m, vp: m % p == 0)
_FULL_ROUND = Requirement("needs at least pp microbatches", lambda p, m, vp: m >= p)


def _fill_and_drain(p: Numbers, vp: Numbers, f: Any, i: Any, w: Any) -> Any:
    """(p - 1) chunks forward and backward [Narayanan 2021, arXiv:2104.04473, section 2.2]."""
    return (p - 1.0) * (f + i + w) / vp


@schedule(
    "gpipe", ONE_CHUNK,
    in_flight=lambda p, m, vp, rank: m + 0 * rank, bubble=_fill_and_drain, turns_at_once=False,
)  # fmt: skip
def _gpipe(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """All forwards, then all backwards [Huang 2019, arXiv:1811.06965, section 2.3]."""
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        for microbatch in range(num_microbatches):
            yield Action(kind, rank, microbatch)


@schedule("1f1b", ONE_CHUNK, in_flight=lambda p, m, vp, rank: np.minimum(m, p - rank), bubble=_fill_and_drain)
def _one_forward_one_backward(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Fill the stages below, then one forward, one backward, with a flush at the end of the step.

    Rank r runs p - r - 1 forwards ahead [Narayanan 2021, arXiv:2104.04473, section 2.2.1].
    """
    forwards = (Action(Kind.FORWARD, rank, microbatch) for microbatch in range(num_microbatches))
    backwards = (Action(Kind.BACKWARD, rank, microbatch) for microbatch in range(num_microbatches))
    return _alternate(forwards, backwards, num_microbatches, num_stages - rank - 1)


def _interleaved_in_flight(p: Numbers, m: Numbers, vp: Numbers, rank: Numbers) -> Numbers:
    return np.minimum(m * vp, 2 * (p - rank - 1) + (vp - 1) * p + 1)


@schedule("interleaved", CHUNKS, _WHOLE_GROUPS, in_flight=_interleaved_in_flight, bubble=_fill_and_drain)
def _interleaved(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Megatron's interleaved 1F1B: groups of p microbatches pass through one chunk of a rank after the other.

    Rank r runs 2 (p - r - 1) + (v - 1) p forwards ahead [Narayanan 2021, arXiv:2104.04473, section 2.2.2].
    """
    places = _places(num_stages, num_microbatches, vp)
    forwards = (Action(Kind.FORWARD, chunk * num_stages + rank, microbatch) for chunk, microbatch in places)
    backwards = (
        Action(Kind.BACKWARD, (vp - 1 - chunk) * num_stages + rank, microbatch) for chunk, microbatch in places
    )
    return _alternate(forwards, backwards, len(places), 2 * (num_stages - rank - 1) + (vp - 1) * num_stages)


@lru_cache(maxsize=64)
def _places(num_stages: int, num_microbatches: int, vp: int) -> tuple[tuple[int, int], ...]:
    """(local chunk, microbatch) of every forward of a rank; backwards go through the chunks from the last."""
    groups = range(0, num_microbatches, num_stages)
    return tuple((chunk, first + member) for first in groups for chunk in range(vp) for member in range(num_stages))


def _alternate(forwards: Iterator[Action], backwards: Iterator[Action], total: int, num_ahead: int) -> Iterator[Action]:
    """`num_ahead` forwards, then forward and backward in turn, then the backwards that are left."""
    return chain(
        islice(forwards, min(num_ahead, total)), chain.from_iterable(zip(forwards, backwards, strict=False)), backwards
    )


@schedule(
    "breadth-first", CHUNKS, _FULL_ROUND,
    in_flight=lambda p, m, vp, rank: m * vp + 0 * rank, bubble=_fill_and_drain, drains_chunk_by_chunk=True,
    turns_at_once=False,
)  # fmt: skip
def _breadth_first(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Every microbatch through the first chunk of the rank, then through the next; backwards likewise.

    A chunk's gradients are whole as early as can be, at the price of all activations held
    [Lamy-Poirier 2023, arXiv:2211.05953, section 4].
    """
    chunks = range(rank, num_stages * vp, num_stages)
    for kind, order in ((Kind.FORWARD, chunks), (Kind.BACKWARD, reversed(chunks))):
        for chunk in order:
            for microbatch in range(num_microbatches):
                yield Action(kind, chunk, microbatch)
