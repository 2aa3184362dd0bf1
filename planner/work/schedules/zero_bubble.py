"""Zero-bubble schedules: gradients of weights, for which nobody waits, fill the gaps of the pipeline.

A backward pass runs in two parts: I, the gradients of inputs, which the stage before waits for, and W, the
gradients of weights, which may run at any later time and hold the microbatch's activations until then.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from planner.work.actions import Action, Kind
from planner.work.schedules.placement import FOLD
from planner.work.schedules.registry import ONE_CHUNK, TWO_CHUNKS, Requirement, schedule

Numbers = Any


class Delayed:
    """Backward passes in two parts on one rank, with the weight gradients that still have to run, oldest first."""

    def __init__(self) -> None:
        self.pending: deque[Action] = deque()

    def inputs(self, chunk: int, microbatch: int) -> Action:
        """The I of a microbatch; its W waits."""
        self.pending.append(Action(Kind.BACKWARD_WEIGHT, chunk, microbatch))
        return Action(Kind.BACKWARD_INPUT, chunk, microbatch)

    def weights(self, keep: int = 0) -> Iterator[Action]:
        """The W that wait, until `keep` of them are left."""
        while len(self.pending) > keep:
            yield self.pending.popleft()


def _handcrafted(num_microbatches: int, rank: int, num_ahead: int, delay: int) -> Iterator[Action]:
    """1F1B with `num_ahead` forwards ahead, whose W run `delay` microbatches after their I."""
    backward, next_backward = Delayed(), 0
    for microbatch in range(num_microbatches + num_ahead):
        if microbatch < num_microbatches:
            yield Action(Kind.FORWARD, rank, microbatch)
        if microbatch >= num_ahead and next_backward < num_microbatches:
            yield backward.inputs(rank, next_backward)
            next_backward += 1
            yield from backward.weights(keep=delay)
    yield from backward.weights()


@schedule(
    "zb-h1", ONE_CHUNK,
    in_flight=lambda p, m, vp, rank: np.minimum(m, p + 0 * rank),
    bubble=lambda p, vp, f, i, w: (p - 1.0) * (f + i - w),
    splits_backward=True, turns_at_once=False,
)  # fmt: skip
def _zb_h1(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """1F1B in the memory of its first rank: rank r runs W r microbatches late.

    Bubble (p - 1)(f + i - w) [Qi 2024, arXiv:2401.10241, section 2.1 and table 2].
    """
    return _handcrafted(num_microbatches, rank, min(num_stages - rank - 1, num_microbatches), rank)


@schedule(
    "zb-h2", ONE_CHUNK,
    in_flight=lambda p, m, vp, rank: np.minimum(m, 2 * p - 1 + 0 * rank),
    bubble=lambda p, vp, f, i, w: (p - 1.0) * (f + i - 2.0 * w),
    splits_backward=True, turns_at_once=False,
)  # fmt: skip
def _zb_h2(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """No idle time on any rank when f = i = w, in the memory of 2 p - 1 microbatches.

    Rank r runs 2 (p - r - 1) forwards ahead and W 2 r microbatches late. Bubble (p - 1)(f + i - 2 w)
    [Qi 2024, arXiv:2401.10241, section 2.2 and table 2], counted from each rank's own first action: a step in
    which ranks also wait for each other still pays the (p - 1) f of its fill.
    """
    return _handcrafted(num_microbatches, rank, min(2 * (num_stages - rank - 1), num_microbatches), 2 * rank)


_MANY = Requirement("needs at least 2 pp - 1 microbatches", lambda p, m, vp: m >= 2 * p - 1)


@schedule(
    "zb-v", TWO_CHUNKS, _MANY,
    in_flight=lambda p, m, vp, rank: np.minimum(2 * m, 2 * p + 0 * rank),
    bubble=lambda p, vp, f, i, w: 0.0 * (f + i + w) * p,
    placement=FOLD, splits_backward=True,
)  # fmt: skip
def _zb_v(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Two chunks a rank in the shape of a V: no idle time when f = i = w, in the memory of 1F1B's first rank.

    Forwards of the way down until the first microbatch has turned; then each forward is followed by a backward
    of either chunk; the last I run alone and W fill what they leave [Qi 2024, arXiv:2401.10241, section 6].
    """
    p, m = num_stages, num_microbatches
    down, up = rank, 2 * p - 1 - rank
    done = {Kind.FORWARD: {down: 0, up: 0}, Kind.BACKWARD_INPUT: {down: 0, up: 0}}
    backward = Delayed()

    def forward(chunk: int) -> Iterator[Action]:
        microbatch = done[Kind.FORWARD][chunk]
        if microbatch < m:
            done[Kind.FORWARD][chunk] += 1
            yield Action(Kind.FORWARD, chunk, microbatch)

    def inputs(chunk: int) -> Iterator[Action]:
        microbatch = done[Kind.BACKWARD_INPUT][chunk]
        if microbatch < m:
            done[Kind.BACKWARD_INPUT][chunk] += 1
            yield backward.inputs(chunk, microbatch)

    for _ in range(2 * (p - rank) - 1):
        yield from forward(down)
    for _ in range(rank):
        yield from forward(up)
        yield from forward(down)
    for _ in range(p - rank):
        yield from forward(up)
        yield from inputs(up)
        yield from backward.weights()
    while done[Kind.FORWARD][up] < m:
        yield from forward(down)
        yield from inputs(down)
        yield from backward.weights()
        yield from forward(up)
        yield from inputs(up)
        yield from backward.weights()
    for _ in range(rank):
        yield from inputs(down)
        yield from inputs(up)
    for _ in range(p - rank):
        yield from inputs(down)
        yield from backward.weights(keep=len(backward.pending) - 1)
    yield from backward.weights()
