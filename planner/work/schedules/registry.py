"""What a schedule says of itself, and the registry of those there are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from planner.plan import SCHEDULE_NAMES, ScheduleName
from planner.work.actions import Action
from planner.work.schedules.placement import LOOP, Placement

Ranks = tuple[tuple[Action, ...], ...]
"""Actions of every pipeline rank, in program order."""
Numbers = Any
"""An int, or an integer array of one value a plan."""
Seconds = Any


class Requirement(NamedTuple):
    """One condition of a schedule: the sentence for a person, and the test over numbers or arrays."""

    sentence: str
    holds: Callable[[Numbers, Numbers, Numbers], Any]
    """(num_stages, num_microbatches, vp) -> bool or mask."""


Build = Callable[[int, int, int, int], Iterator[Action]]
"""(num_stages, num_microbatches, vp, rank) -> the forwards and backwards of one rank."""
InFlight = Callable[[Numbers, Numbers, Numbers, Numbers], Numbers]
"""(num_stages, num_microbatches, vp, rank) -> microbatches, counted by chunk."""
Bubble = Callable[[Numbers, Numbers, Seconds, Seconds, Seconds], Seconds]
"""(num_stages, vp, forward, backward_input, backward_weight of all chunks of a rank) -> seconds."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order of forwards and backwards, what it holds in memory and what it asks for."""

    name: ScheduleName
    build: Build
    in_flight: InFlight
    """The most a rank holds between forward and the end of backward; met when there are microbatches enough."""
    bubble: Bubble
    """Idle seconds of a rank between its first action and its last, for equal stages, as its authors give them."""
    requirements: tuple[Requirement, ...]
    placement: Placement = LOOP
    splits_backward: bool = False
    """Some backward passes run in two parts, for inputs and for weights."""
    drains_chunk_by_chunk: bool = False
    """A rank runs all backward passes of a chunk before those of the next; else chunks take turns every p."""
    turns_at_once: bool = True
    """The last chunk runs a microbatch backward, weights and all, right after its forward pass."""

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

POSITIVE = Requirement(
    "pp, vp and the number of microbatches must be at least 1",
    lambda num_stages, num_microbatches, vp: (num_stages >= 1) & (num_microbatches >= 1) & (vp >= 1),
)
ONE_CHUNK = Requirement("needs vp=1 (one chunk of the model a rank)", lambda p, m, vp: vp == 1)
TWO_CHUNKS = Requirement("needs vp=2 (two chunks of the model a rank)", lambda p, m, vp: vp == 2)
CHUNKS = Requirement("needs vp of at least 2", lambda p, m, vp: vp >= 2)


def schedule(
    name: ScheduleName,
    *requirements: Requirement,
    in_flight: InFlight,
    bubble: Bubble,
    placement: Placement = LOOP,
    splits_backward: bool = False,
    drains_chunk_by_chunk: bool = False,
    turns_at_once: bool = True,
) -> Callable[[Build], Build]:
    """Register a schedule: its builder for one rank, its memory, its bubble and its requirements."""

    def register(build: Build) -> Build:
        assert name not in SCHEDULES, f"schedule {name} is registered twice"
        every = (POSITIVE, *requirements)
        SCHEDULES[name] = Schedule(
            name, build, in_flight, bubble, every, placement, splits_backward, drains_chunk_by_chunk, turns_at_once
        )
        return build

    return register


def in_flight(schedule_codes: Numbers, num_stages: Numbers, num_microbatches: Numbers, vp: Numbers,
              rank: Numbers) -> Numbers:  # fmt: skip
    """Microbatches, counted by chunk, that `rank` holds at the peak, for plans by schedule code (broadcasts).

    Codes index `planner.plan.SCHEDULE_NAMES`; schedules that no plan uses are not computed.
    """
    held = np.zeros(np.broadcast_shapes(*map(np.shape, (schedule_codes, num_stages, num_microbatches, vp, rank))))
    for code in np.flatnonzero(np.bincount(np.ravel(schedule_codes))):
        own = SCHEDULES[SCHEDULE_NAMES[code]].in_flight(num_stages, num_microbatches, vp, rank)
        held = np.where(np.equal(schedule_codes, code), own, held)
    return held


def num_copies(schedules: Any) -> Any:
    """Copies of the model in one pipeline, of a schedule's name or of an array of codes."""
    if isinstance(schedules, str):
        return SCHEDULES[schedules].placement.num_copies
    return np.array([SCHEDULES[name].placement.num_copies for name in SCHEDULE_NAMES])[schedules]


def chunks_per_rank(schedules: Any, vp: Numbers) -> Numbers:
    """Chunks on each rank, of a schedule's name or of an array of codes."""
    return num_copies(schedules) * vp


def waiting_losses(schedule_codes: Any, held: Numbers) -> Numbers:
    """Microbatches whose loss waits on a rank that holds `held` of them, beside the one that runs, by schedule code.

    None where the last chunk turns a microbatch at once.
    """
    turns_at_once = np.array([SCHEDULES[name].turns_at_once for name in SCHEDULE_NAMES])[schedule_codes]
    return np.where(turns_at_once, 0.0, np.maximum(held - 1.0, 0.0))


def rank_of_head(schedule_codes: Any, num_stages: Numbers) -> Any:
    """The pipeline rank that holds the last chunk, by schedule code: the last one, or at the end of a V the first."""
    loops = np.array([SCHEDULES[name].placement is LOOP for name in SCHEDULE_NAMES])[schedule_codes]
    return np.where(loops, num_stages - 1.0, 0.0)


def splits_backward(schedule_codes: Any) -> Any:
    """Whether backward passes run in two parts, by schedule code."""
    return np.array([SCHEDULES[name].splits_backward for name in SCHEDULE_NAMES])[schedule_codes]


def chunk_lead(schedule_codes: Any, num_stages: Numbers, num_microbatches: Numbers) -> Numbers:
    """Backward passes that a rank runs between the last one of a chunk and that of its next chunk, by schedule code.

    Where the chunks of a rank lie side by side (at the turn of a V), they end together, with the step.
    """
    whole = np.array([SCHEDULES[name].drains_chunk_by_chunk for name in SCHEDULE_NAMES])[schedule_codes]
    loops = np.array([SCHEDULES[name].placement is LOOP for name in SCHEDULE_NAMES])[schedule_codes]
    return np.where(whole, num_microbatches, np.where(loops, num_stages, 1.0))
