"""Critical paths: how long a schedule takes is its longest path, a maximum of sums of the prices of its actions.

The graph of a schedule joins each action to the one before it on its rank and to the one on a neighbouring chunk
that it waits for. Which path is the longest depends on the prices only by regime, so it is looked for under a
few of them; every path found bounds the makespan from below for any prices, and is exact for those of its
regime. A path is a count of actions, so that a million plans are priced by a product of two matrices.
"""

import heapq
import itertools
from collections import deque
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
    """The actions of a schedule, and messages that keep ranks busy, as nodes in an order in which they can run."""

    column: Ints
    """chunk * len(PRICED) + kind of every node, (nodes,); for a message one more than the last of them."""
    waits: Ints
    """Nodes that each node waits for, or NOTHING, (4, nodes): the one before on its rank; the one on a neighbouring
    chunk that hands over its result; and the messages before it on the two ranks' streams."""
    is_transfer: NDArray[np.bool_]
    """Whether the result is handed over beside compute, from another rank."""
    levels: tuple[slice, ...]
    """Nodes that depend on earlier levels only."""
    rank: Ints
    num_columns: int


@lru_cache(maxsize=64)
def graph(schedule: str, num_stages: int, num_microbatches: int, vp: int) -> Graph:
    """The graph of a schedule, its messages beside compute. Raises ValueError when its requirements do not hold."""
    ranks = SCHEDULES[schedule].actions(num_stages, num_microbatches, vp)
    actions = list(itertools.chain.from_iterable(ranks))
    rank = np.repeat(np.arange(len(ranks)), [len(own) for own in ranks])
    column = np.array([action.chunk * len(PRICED) + _CODES[action.kind] for action in actions])
    microbatch = np.array([action.microbatch for action in actions])
    needed = _needed(column, microbatch)
    before = np.arange(len(rank)) - 1
    before[np.flatnonzero(np.diff(rank, prepend=-1))] = NOTHING
    nothing = np.full(len(rank), NOTHING)
    level = np.array(_levels(rank.tolist(), before.tolist(), needed.tolist()))
    num_columns = SCHEDULES[schedule].placement.num_chunks(num_stages, vp) * len(PRICED)
    is_transfer = (needed != NOTHING) & (rank[needed] != rank)
    waits = np.stack([before, needed, nothing, nothing])
    return in_order(column, waits, is_transfer, level, rank, num_columns)


def in_order(
    column: Ints, waits: Ints, is_transfer: NDArray[np.bool_], level: Ints, rank: Ints, num_columns: int
) -> Graph:
    """A graph whose nodes are sorted by `level`, with what they wait for renamed."""
    order = np.argsort(level, kind="stable")
    renamed = np.empty(len(order) + 1, dtype=np.int64)
    renamed[order], renamed[-1] = np.arange(len(order)), NOTHING
    ends = np.cumsum(np.bincount(level))
    return Graph(
        column=column[order],
        waits=renamed[waits[:, order]],
        is_transfer=is_transfer[order],
        levels=tuple(slice(int(start), int(end)) for start, end in zip([0, *ends], ends, strict=False)),
        rank=rank[order],
        num_columns=num_columns,
    )


def with_messages(plain: Graph, action_seconds: Floats, transfer_seconds: float) -> Graph:
    """A graph whose messages are nodes: each keeps the rank that receives it busy.

    It follows the messages before it on the streams of both its ranks, in the order of a play with these seconds:
    (num_columns,) of actions, and of a message.
    """
    before, needed = plain.waits[0].copy(), plain.waits[1].copy()
    received = np.flatnonzero(plain.is_transfer)
    number = np.full(len(before), NOTHING)
    number[received] = len(before) + np.arange(len(received))
    order, streams = _played(plain, action_seconds, transfer_seconds)
    message_before, message_needed = before[received], needed[received]
    before[received], needed[received] = number[received], NOTHING
    queued = np.full((2, len(before) + len(received)), NOTHING)
    last = [NOTHING] * (int(plain.rank.max()) + 1)
    for node in streams:
        for row, rank in enumerate((int(plain.rank[plain.waits[1, node]]), int(plain.rank[node]))):
            queued[row, number[node]] = last[rank]
            last[rank] = int(number[node])
    waits = np.concatenate([np.stack([np.append(before, message_before), np.append(needed, message_needed)]), queued])
    level, before_each = [NOTHING] * (waits.shape[1] + 1), waits.T.tolist()  # the last one stands for NOTHING
    numbers = number.tolist()
    for node in order:
        for at in (numbers[node], node):
            if at != NOTHING:
                own, handed, sent, got = before_each[at]
                level[at] = 1 + max(level[own], level[handed], level[sent], level[got])
    return in_order(
        np.append(plain.column, np.full(len(received), plain.num_columns)), waits,
        np.zeros(waits.shape[1], dtype=bool), np.array(level[:-1]), np.append(plain.rank, plain.rank[received]),
        plain.num_columns,
    )  # fmt: skip


def with_queues(plain: Graph) -> Graph:
    """A graph whose messages are nodes beside compute: each leaves when those before it on its sender's stream have.

    A rank sends in the order of its actions, whatever they cost. Messages that wait for others at their receiver are
    left out, so that every path still bounds the makespan from below.
    """
    num_nodes = len(plain.column)
    received = np.flatnonzero(plain.is_transfer)
    message_to = np.full(num_nodes, NOTHING)
    message_to[received] = num_nodes + np.arange(len(received))
    message_of = np.full(num_nodes, NOTHING)
    message_of[plain.waits[1, received]] = message_to[received]
    before = np.append(plain.waits[0], np.full(len(received), NOTHING))
    needed = np.append(np.where(plain.is_transfer, message_to, plain.waits[1]), plain.waits[1, received])
    last = [NOTHING] * (int(plain.rank.max()) + 1)
    level = [NOTHING] * (len(before) + 1)  # the last one stands for NOTHING
    for node, (own, handed) in enumerate(zip(plain.waits[0].tolist(), needed.tolist(), strict=False)):
        level[node] = 1 + max(level[own], level[handed])
        sent, rank = int(message_of[node]), int(plain.rank[node])
        if sent != NOTHING:
            level[sent] = 1 + max(level[node], level[last[rank]])
            before[sent], last[rank] = last[rank], sent
    waits = np.stack([before, needed, *np.full((2, len(before)), NOTHING)])
    return in_order(
        np.append(plain.column, np.full(len(received), plain.num_columns)), waits,
        np.zeros(len(before), dtype=bool), np.array(level[:-1]),
        np.append(plain.rank, plain.rank[plain.waits[1, received]]), plain.num_columns,
    )  # fmt: skip


def _played(plain: Graph, action_seconds: Floats, transfer_seconds: float) -> tuple[list[int], list[int]]:
    """(nodes in the order in which they run, those that receive a message in the order of their messages).

    A message starts when its receiver waits and both streams are
    free; what becomes ready at one time runs by the rank that made it ready, as in the simulator.
    """
    rank, needed = plain.rank.tolist(), plain.waits[1].tolist()
    is_message = plain.is_transfer.tolist()
    seconds = action_seconds[plain.column].tolist()
    todo = [deque(np.flatnonzero(plain.rank == own).tolist()) for own in range(max(rank) + 1)]
    ends: dict[int, float] = {NOTHING: 0.0}
    free = [0.0] * len(todo)
    waiting: dict[int, int] = {}
    ready = [(0.0, own, own, own) for own in range(len(todo))]  # time, who made it ready, count, rank
    counter = itertools.count(len(todo))
    order, streams = [], []
    while ready:
        now, _, _, own = heapq.heappop(ready)
        if not todo[own]:
            continue
        node = todo[own][0]
        source = needed[node]
        if source not in ends:
            waiting[source] = own
            continue
        if ends[source] > now:
            heapq.heappush(ready, (ends[source], rank[source], next(counter), own))
            continue
        if is_message[node]:
            now = free[own] = free[rank[source]] = max(now, free[own], free[rank[source]]) + transfer_seconds
            streams.append(node)
        todo[own].popleft()
        order.append(node)
        ends[node] = now + seconds[node]
        heapq.heappush(ready, (ends[node], own, next(counter), own))
        if node in waiting:
            heapq.heappush(ready, (ends[node], own, next(counter), waiting.pop(node)))
    return order, streams


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


def longest_paths(shape: Graph, action_seconds: Floats, transfer_seconds: Floats) -> Paths:
    """The longest path under each of k lists: `action_seconds` (chunks * len(PRICED), k), `transfer_seconds` (k,)."""
    ends = np.zeros((len(shape.column) + 1, len(transfer_seconds)))  # the last row stands for NOTHING
    came = np.zeros((len(shape.column), len(transfer_seconds)), dtype=np.int8)
    duration = np.concatenate([action_seconds, transfer_seconds[None, :]])[shape.column]
    delay = shape.is_transfer[:, None] * transfer_seconds
    others = [wait for wait in shape.waits[2:] if (wait != NOTHING).any()]
    for level in shape.levels:
        latest, received = ends[shape.waits[0, level]], ends[shape.waits[1, level]]
        received += delay[level]
        np.greater(received, latest, out=came[level], casting="unsafe")
        np.maximum(latest, received, out=latest)
        for row, wait in enumerate(others, start=2):
            queued = ends[wait[level]]
            came[level][queued > latest] = row
            np.maximum(latest, queued, out=latest)
        np.add(latest, duration[level], out=ends[level])
    return _trace(shape, ends, came)


def _trace(shape: Graph, ends: Floats, came: NDArray[np.int8]) -> Paths:
    """Follow the longest paths back from their ends and count what they pass."""
    num_nodes, num_paths = came.shape
    every = np.arange(num_paths)
    earlier = np.full((num_nodes + 1, len(shape.waits)), num_nodes)  # the last row stands for NOTHING
    earlier[:-1] = np.where(shape.waits == NOTHING, num_nodes, shape.waits).T
    flat, wait_of = earlier.reshape(-1), np.append(came.reshape(-1), np.zeros(num_paths, dtype=np.int8))
    passed = np.empty((len(shape.levels), num_paths), dtype=np.int64)
    node = ends[:-1].argmax(axis=0)
    for step in passed:
        step[:] = node
        node = flat[node * len(shape.waits) + wait_of[node * num_paths + every]]
    step, path = np.nonzero(passed < num_nodes)
    at = passed[step, path]
    columns = shape.num_columns + 1
    actions = np.bincount(path * columns + shape.column[at], minlength=num_paths * columns).astype(float)
    actions = actions.reshape(num_paths, columns)
    handed = shape.is_transfer[at] & (came[at, path] == 1)
    transfers = np.bincount(path[handed], minlength=num_paths).astype(float)
    return Paths(actions[:, :-1], transfers + actions[:, -1])


def dwelling_paths(shape: Graph) -> Paths:
    """For each rank, the path that reaches it as early as can be and then stays on it until its work is done."""
    rows, transfers = [], []
    for rank in range(int(shape.rank.max()) + 1):
        own = np.flatnonzero(shape.rank == rank)
        counts = np.bincount(shape.column[own], minlength=shape.num_columns + 1).astype(float)
        node, passed = int(shape.waits[1, own[0]]), float(shape.is_transfer[own[0]])
        while node != NOTHING:
            counts[shape.column[node]] += 1.0
            passed += float(shape.is_transfer[node])
            source = int(shape.waits[1, node])
            node = source if source != NOTHING else int(shape.waits[0, node])
        rows.append(counts[:-1])
        transfers.append(passed + counts[-1])
    return Paths(np.array(rows), np.array(transfers))


def beside(parts: Sequence[Paths]) -> Paths:
    """The paths of `parts` in their order."""
    return Paths(
        np.concatenate([part.num_actions for part in parts]), np.concatenate([part.num_transfers for part in parts])
    )


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
