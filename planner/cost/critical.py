"""Critical paths: how long a schedule takes is its longest path, a maximum of sums of the prices of its actions.

The graph of a schedule joins each action to the one before it on its rank and to the one on a neighbouring chunk
that it waits for. Which path is the longest depends on the prices only by regime, so it is looked for under a
few of them; every path found bounds the makespan from below for any prices, and is exact for those of its
regime. A path is a count of actions, so that a million plans are priced by a product of two matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.work.actions import Kind
from planner.work.schedules import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRICED = (Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
"""What a chunk has a price for, in the order of the columns of a path."""
_CODES = {kind: code for code, kind in enumerate(PRICED)}
NOTHING = -1
STEADY = 0.5
"""Counts that differ by less are equal."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The actions of a schedule as nodes in an order in which they can run; shape (nodes,)."""

    column: Ints
    """chunk * len(PRICED) + kind."""
    before: Ints
    """The node before on the same rank, or NOTHING."""
    needed: Ints
    """The node on a neighbouring chunk that hands over its result, or NOTHING."""
    is_transfer: NDArray[np.bool_]
    """Whether it is handed over to another rank."""
    levels: tuple[slice, ...]
    """Nodes that depend on earlier levels only."""
    rank: Ints


@lru_cache(maxsize=64)
def graph(schedule: str, num_stages: int, num_microbatches: int, vp: int) -> Graph:
    """The graph of a schedule. Raises ValueError when its requirements do not hold."""
    ranks = SCHEDULES[schedule].actions(num_stages, num_microbatches, vp)
    listed = np.array(
        [(rank, action.chunk * len(PRICED) + _CODES[action.kind], action.microbatch)
         for rank, actions in enumerate(ranks) for action in actions]
    )  # fmt: skip
    rank, column, microbatch = listed.T
    needed = _needed(column, microbatch)
    before = np.arange(len(rank)) - 1
    before[np.flatnonzero(np.diff(rank, prepend=-1))] = NOTHING
    level = np.array(_levels(rank.tolist(), before.tolist(), needed.tolist()))
    order = np.argsort(level, kind="stable")
    renamed = np.empty(len(order) + 1, dtype=np.int64)
    renamed[order], renamed[-1] = np.arange(len(order)), NOTHING
    ends = np.cumsum(np.bincount(level))
    return Graph(
        column=column[order],
        before=renamed[before[order]],
        needed=renamed[needed[order]],
        is_transfer=((needed != NOTHING) & (rank[needed] != rank))[order],
        levels=tuple(slice(int(start), int(end)) for start, end in zip([0, *ends], ends, strict=False)),
        rank=rank[order],
    )


def _needed(column: Ints, microbatch: Ints) -> Ints:
    """For each action the place of the one on a neighbouring chunk that it waits for, or NOTHING."""
    chunk, kind = np.divmod(column, len(PRICED))
    place = np.full((len(PRICED), int(chunk.max()) + 3, int(microbatch.max()) + 1), NOTHING)
    place[kind, chunk + 1, microbatch] = np.arange(len(column))  # chunks one higher, so that all have neighbours
    forward, backward, inputs, weights = range(len(PRICED))
    whole, half = place[backward, chunk + 2, microbatch], place[inputs, chunk + 2, microbatch]
    gradient = np.where(whole != NOTHING, whole, half)
    wanted = np.where(kind == forward, place[forward, chunk, microbatch], gradient)
    return np.where(kind == weights, NOTHING, wanted)


def _levels(rank: list[int], before: list[int], needed: list[int]) -> list[int]:
    """The slot of every action if all took one; raises ValueError for an order that never ends."""
    level = [NOTHING] * (len(rank) + 1)  # the last one stands for NOTHING
    waiting = [index for index, earlier in enumerate(before) if earlier == NOTHING]
    while waiting:
        stuck = []
        for index in waiting:
            at = index
            while at < len(rank) and rank[at] == rank[index]:
                source = needed[at]
                if source != NOTHING and level[source] == NOTHING:
                    stuck.append(at)
                    break
                level[at] = 1 + max(level[before[at]], level[source])
                at += 1
        if stuck == waiting:
            raise ValueError(f"schedule: the orders of ranks {sorted({rank[at] for at in stuck})} wait for each other")
        waiting = stuck
    return level[:-1]


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths as counts: `num_actions` (paths, chunks * len(PRICED)) and `num_transfers` (paths,) on them."""

    num_actions: Floats
    num_transfers: Floats


def longest_paths(shape: Graph, action_seconds: Floats, transfer_seconds: Floats, *, overlaps: bool) -> Paths:
    """The longest path under each of k lists: `action_seconds` (chunks * len(PRICED), k), `transfer_seconds` (k,).

    `overlaps`: a message travels beside compute, so only the action that needs it waits; else the rank that
    receives it is busy with it.
    """
    ends = np.zeros((len(shape.column) + 1, len(transfer_seconds)))  # the last row stands for NOTHING
    waited = np.zeros(ends.shape, dtype=bool)
    duration = action_seconds[shape.column]
    delay = shape.is_transfer[:, None] * transfer_seconds
    for level in shape.levels:
        before, needed = ends[shape.before[level]], ends[shape.needed[level]]
        if overlaps:
            needed = needed + delay[level]
        waited[level] = needed > before
        start = np.maximum(before, needed)
        ends[level] = start + duration[level] + (0.0 if overlaps else delay[level])
    return _trace(shape, ends, waited, len(action_seconds), overlaps)


def _trace(shape: Graph, ends: Floats, waited: NDArray[np.bool_], num_columns: int, overlaps: bool) -> Paths:
    """Follow the longest paths back from their ends and count what they pass."""
    num_paths = ends.shape[1]
    actions, transfers = np.zeros((num_paths, num_columns)), np.zeros(num_paths)
    every = np.arange(num_paths)
    node = ends[:-1].argmax(axis=0)
    alive = node != NOTHING
    while alive.any():
        at, path = node[alive], every[alive]
        actions[path, shape.column[at]] += 1.0
        came = waited[at, path]
        transfers[path] += shape.is_transfer[at] & (came if overlaps else True)
        node[alive] = np.where(came, shape.needed[at], shape.before[at])
        alive = node != NOTHING
    return Paths(actions, transfers)


def dwelling_paths(shape: Graph, num_columns: int) -> Paths:
    """For each rank, the path that reaches it as early as can be and then stays on it until its work is done."""
    rows, transfers = [], []
    for rank in range(int(shape.rank.max()) + 1):
        own = np.flatnonzero(shape.rank == rank)
        counts = np.bincount(shape.column[own], minlength=num_columns).astype(float)
        node, passed = int(shape.needed[own[0]]), float(shape.is_transfer[own[0]])
        while node != NOTHING:
            counts[shape.column[node]] += 1.0
            passed += float(shape.is_transfer[node])
            node = int(shape.needed[node])
        rows.append(counts)
        transfers.append(passed)
    return Paths(np.array(rows), np.array(transfers))


def joined(parts: Sequence[Paths]) -> Paths:
    """All distinct paths of `parts`."""
    table = np.concatenate([np.column_stack([part.num_actions, part.num_transfers]) for part in parts])
    table = np.unique(np.round(table, 9), axis=0)
    return Paths(table[:, :-1], table[:, -1])


def extended(one: Paths, two: Paths, three: Paths, num_rounds: float) -> Paths:
    """Paths of a step that is `num_rounds` rounds longer than `one`, of paths of steps that differ by one round.

    Only those that grow by the same actions from each to the next are kept: the others change their regime.
    """
    tables = [np.column_stack([paths.num_actions, paths.num_transfers]) for paths in (one, two, three)]
    growth = tables[1] - tables[0]
    steady = (np.abs(tables[2] - tables[1] - growth) < STEADY).all(axis=1)
    table = (tables[0] + num_rounds * growth)[steady]
    return Paths(table[:, :-1], table[:, -1])
