"""How long unequal stages take: a program walked in the order of time, with a price for every action and message.

Closed forms know one price of a message for all neighbours; here each has its own, and messages of a rank queue. The
simulator finds the same with a clock of its own; the tests compare the two.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.work.program import PASSES, RECEIVES, SENDS, Action, Kind, StepProgram, matching_send

Floats = NDArray[np.float64]
Price = Callable[[Kind, int], float]
"""(kind, chunk) -> seconds of a forward, a backward (or its parts), or a message."""


class Walk(NamedTuple):
    """When each rank begins its first pass and ends its last, in seconds, (ranks,)."""

    start_seconds: Floats
    end_seconds: Floats

    @property
    def whole_seconds(self) -> float:
        """Until the last rank is done."""
        return float(self.end_seconds.max())


def walk(program: StepProgram, price: Price, *, overlaps: bool) -> Walk:
    """Run the passes of `program`. With `overlaps` messages travel beside compute, else a rank waits for its own.

    A rank has one stream for sends and one for receives, or without `overlaps` one for both.
    """
    rank_of = {action.chunk: rank for rank, actions in enumerate(program.ranks) for action in actions}
    num_ranks = len(program.ranks)
    sending, receiving = [0.0] * num_ranks, [0.0] * num_ranks
    receiving = receiving if overlaps else sending
    at, starts, ends = [0] * num_ranks, [-1.0] * num_ranks, [0.0] * num_ranks
    sent: dict[Action, float] = {}
    parked: dict[Action, tuple[float, int]] = {}
    ready = [(0.0, rank) for rank in range(num_ranks)]
    while ready:
        now, rank = heapq.heappop(ready)
        if at[rank] == len(program.ranks[rank]):
            continue
        action = program.ranks[rank][at[rank]]
        if action.kind in RECEIVES:
            send = matching_send(action)
            if send not in sent:
                parked[send] = (now, rank)
                continue
            arrival = sent.pop(send)
            if not overlaps:
                sender = rank_of[send.chunk]
                arrival = max(now, sending[sender], sending[rank]) + price(send.kind, send.chunk)
                sending[sender] = sending[rank] = arrival
            now = max(now, arrival)
        elif action.kind in SENDS:
            receiver = rank_of[action.chunk + (1 if action.kind is Kind.SEND_FORWARD else -1)]
            sent[action] = now
            if overlaps:
                sent[action] = max(now, sending[rank], receiving[receiver]) + price(action.kind, action.chunk)
                sending[rank] = receiving[receiver] = sent[action]
            if action in parked:
                heapq.heappush(ready, (max(parked[action][0], now), parked.pop(action)[1]))
        elif action.kind in PASSES:
            starts[rank] = now if starts[rank] < 0.0 else starts[rank]
            now += price(action.kind, action.chunk)
            ends[rank] = now
        at[rank] += 1
        heapq.heappush(ready, (now, rank))
    return Walk(np.array(starts), np.array(ends))
