"""Pipeline schedules: in which order each rank runs the forwards and backwards of a step.

A schedule is one function registered by name. It knows nothing of time: how long it takes is found from its
actions by `planner.cost.pipeline`, and again by the simulator, which plays them.
"""

from planner.work.schedules import classic, dualpipe, zero_bubble
from planner.work.schedules.placement import FOLD, LOOP, MIRROR, Placement
from planner.work.schedules.registry import (
    SCHEDULES,
    Ranks,
    Requirement,
    Schedule,
    chunk_lead,
    chunks_per_rank,
    in_flight,
    num_copies,
    rank_of_head,
    schedule,
    splits_backward,
    waiting_losses,
)

__all__ = [
    "FOLD", "LOOP", "MIRROR", "SCHEDULES", "Placement", "Ranks", "Requirement", "Schedule", "chunk_lead",
    "chunks_per_rank", "classic", "dualpipe", "in_flight", "num_copies", "rank_of_head", "schedule", "splits_backward",
    "waiting_losses", "zero_bubble",
]  # fmt: skip
