"""Pipeline schedules: in which order each rank runs the forwards and backwards of a step.

A schedule is one function registered by name. It knows nothing of time: its makespan in closed form is in
`planner.cost.pipeline`, and the simulator finds the same figure by playing the actions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from planner.plan import SCHEDULE_NAMES, ScheduleName
from planner.work.actions import Action, Kind

Ranks = tuple[tuple[Action, ...], ...]
"""Actions of every pipeline rank, in program order."""
Numbers = Any
"""An int, or an integer array of one value a plan."""


class Requirement(NamedTuple):
    """One condition of a schedule: the sentence for a person, and the test over numbers or arrays."""

    sentence: str
    holds: Callable[[Numbers, Numbers, Numbers], Any]
    """(num_stages, num_microbatches, vp) -> bool or mask."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order of forwards and backwards, what it holds in memory and what it asks for."""

    name: ScheduleName
    build: Callable[[int, int, int, int], Iterator[Action]]
    """(num_stages, num_microbatches, vp, rank) -> the forwards and backwards of one rank."""
    in_flight: Callable[[Numbers, Numbers, Numbers, Numbers], Numbers]
    """(num_stages, num_microbatches, vp, rank) -> microbatches a rank holds at the peak, counted by chunk."""
    requirements: tuple[Requirement, ...]

    def actions(self, num_stages: int, num_microbatches: int, vp: int = 1) -> Ranks:
        """The forwards and backwards of every rank.

        Raises ValueError naming the first requirement that does not hold.
        """
        for requirement in self.requirements:
            if not requirement.holds(num_stages, num_microbatches, vp):
                raise ValueError(
                    f"schedule {self.name}: {requirement.sentence}; got pp={num_stages}, "
                    f"{num_microbatches} microbatches, vp={vp}"
                )
        return tuple(tuple(self.build(num_stages, num_microbatches, vp, rank)) for rank in range(num_stages))


SCHEDULES: dict[str, Schedule] = {}
"""Every registered schedule, by name."""

_POSITIVE = Requirement(
    "pp, vp and the number of microbatches must be at least 1",
    lambda num_stages, num_microbatches, vp: (num_stages >= 1) & (num_microbatches >= 1) & (vp >= 1),
)
_ONE_CHUNK = Requirement("needs vp=1 (one chunk of the model a rank)", lambda p, m, vp: vp == 1)
_CHUNKS = Requirement("needs vp of at least 2", lambda p, m, vp: vp >= 2)
_WHOLE_GROUPS = Requirement("needs a multiple of pp microbatches", lambda p, m, vp: m % p == 0)

Build = Callable[[int, int, int, int], Iterator[Action]]


def schedule(
    name: ScheduleName,
    *requirements: Requirement,
    in_flight: Callable[[Numbers, Numbers, Numbers, Numbers], Numbers],
) -> Callable[[Build], Build]:
    """Register a schedule: its builder for one rank, its peak of held microbatches and its requirements."""

    def register(build: Build) -> Build:
        assert name not in SCHEDULES, f"schedule {name} is registered twice"
        SCHEDULES[name] = Schedule(name, build, in_flight, (_POSITIVE, *requirements))
        return build

    return register


@schedule("gpipe", _ONE_CHUNK, in_flight=lambda p, m, vp, rank: m + 0 * rank)
def _gpipe(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """All forwards, then all backwards [Huang 2019, arXiv:1811.06965, section 2.3]."""
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        for microbatch in range(num_microbatches):
            yield Action(kind, rank, microbatch)


@schedule("1f1b", _ONE_CHUNK, in_flight=lambda p, m, vp, rank: np.minimum(m, p - rank))
def _one_forward_one_backward(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Fill the stages below, then one forward, one backward, with a flush at the end of the step.

    Rank r runs p - r - 1 forwards ahead [Narayanan 2021, arXiv:2104.04473, section 2.2.1].
    """
    forwards = (Action(Kind.FORWARD, rank, microbatch) for microbatch in range(num_microbatches))
    backwards = (Action(Kind.BACKWARD, rank, microbatch) for microbatch in range(num_microbatches))
    return _alternate(forwards, backwards, num_microbatches, num_stages - rank - 1)


def _interleaved_in_flight(p: Numbers, m: Numbers, vp: Numbers, rank: Numbers) -> Numbers:
    return np.minimum(m * vp, 2 * (p - rank - 1) + (vp - 1) * p + 1)


@schedule("interleaved", _CHUNKS, _WHOLE_GROUPS, in_flight=_interleaved_in_flight)
def _interleaved(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Megatron's interleaved 1F1B: groups of p microbatches pass through one chunk of a rank after the other.

    Rank r runs 2 (p - r - 1) + (v - 1) p forwards ahead [Narayanan 2021, arXiv:2104.04473, section 2.2.2].
    """
    total = num_microbatches * vp

    def place(step: int) -> tuple[int, int]:
        """(local chunk, microbatch) of a forward; backwards go through the chunks from the last."""
        group, inside = divmod(step, num_stages * vp)
        chunk, member = divmod(inside, num_stages)
        return chunk, group * num_stages + member

    places = [place(step) for step in range(total)]
    forwards = (Action(Kind.FORWARD, chunk * num_stages + rank, microbatch) for chunk, microbatch in places)
    backwards = (
        Action(Kind.BACKWARD, (vp - 1 - chunk) * num_stages + rank, microbatch) for chunk, microbatch in places
    )
    return _alternate(forwards, backwards, total, 2 * (num_stages - rank - 1) + (vp - 1) * num_stages)


def _alternate(forwards: Iterator[Action], backwards: Iterator[Action], total: int, num_ahead: int) -> Iterator[Action]:
    """`num_ahead` forwards, then forward and backward in turn, then the backwards that are left."""
    num_ahead = min(num_ahead, total)
    for _ in range(num_ahead):
        yield next(forwards)
    for forward in forwards:
        yield forward
        yield next(backwards)
    yield from backwards


def in_flight(schedule_codes: Numbers, num_stages: Numbers, num_microbatches: Numbers, vp: Numbers,
              rank: Numbers) -> Numbers:  # fmt: skip
    """Microbatches, counted by chunk, that `rank` holds at the peak, for plans by schedule code (broadcasts).

    Codes index `planner.plan.SCHEDULE_NAMES`.
    """
    held = [SCHEDULES[name].in_flight(num_stages, num_microbatches, vp, rank) for name in SCHEDULE_NAMES]
    return np.select([np.equal(schedule_codes, code) for code in range(len(SCHEDULE_NAMES))], held)
