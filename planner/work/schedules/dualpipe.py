"""DualPipe and DualPipeV: every rank works for both ends of the pipeline at once.

What the two have in common is the order on a rank that holds a chunk near the entry and one near the exit. They
are built to run a forward beside the backward of another microbatch, whose messages then hide each other's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from planner.work.actions import Action, Kind
from planner.work.schedules.placement import FOLD, MIRROR
from planner.work.schedules.registry import ONE_CHUNK, TWO_CHUNKS, Requirement, schedule
from planner.work.schedules.zero_bubble import Delayed

Numbers = Any
_EVEN = Requirement("needs an even pp and an even number of microbatches",
                    lambda p, m, vp: (p % 2 == 0) & (m % 2 == 0))  # fmt: skip
_TWO_ROUNDS = Requirement("needs at least 2 pp microbatches", lambda p, m, vp: m >= 2 * p)


def _both_ends(depth: int, position: int, num_microbatches: int, chunks: tuple[int, int],
               microbatch: Callable[[int, int], int]) -> Iterator[Action]:  # fmt: skip
    """The order of a rank that is `position` of `depth` from the ends and holds `chunks` (near entry, near exit).

    Each end passes `num_microbatches`; `microbatch(end, index)` names them. Phases as DeepSeek describe them:
    fill, fill of both ends, exit alone with W, both in turn, entry drains, both drain, W fill, W alone
    [deepseek-ai/DualPipe, README and schedule figure].
    """
    counts = {(kind, end): 0 for kind in (Kind.FORWARD, Kind.BACKWARD) for end in (0, 1)}
    delayed = Delayed()

    def run(kind: Kind, end: int, split: bool = False) -> Action:
        index = counts[kind, end]
        counts[kind, end] += 1
        name = microbatch(end, index)
        return delayed.inputs(chunks[end], name) if split else Action(kind, chunks[end], name)

    def weight() -> Iterator[Action]:
        return delayed.weights(keep=len(delayed.pending) - 1)

    forward, backward, rest = Kind.FORWARD, Kind.BACKWARD, depth - position - 1
    for _ in range(2 * rest):
        yield run(forward, 0)
    for _ in range(position + 1):
        yield run(forward, 0)
        yield run(forward, 1)
    for _ in range(rest):
        yield run(backward, 1, split=True)
        yield from weight()
        yield run(forward, 1)
    for _ in range(num_microbatches - 2 * depth + position + 1):
        yield run(forward, 0)
        yield run(backward, 1)
        yield run(forward, 1)
        yield run(backward, 0)
    for _ in range(rest):
        yield run(backward, 1)
        yield run(forward, 1)
        yield run(backward, 0)
    last = position + 1
    for index in range(2 * last):  # the second half of these leaves its W for later
        yield run(backward, (index + 1) % 2, split=index >= last)
    for _ in range(rest):
        yield from weight()
        yield run(backward, 0, split=True)
    yield from delayed.weights()


@schedule(
    "dualpipe", ONE_CHUNK, _EVEN, _TWO_ROUNDS,
    in_flight=lambda p, m, vp, rank: np.minimum(m, p + 1 + 0 * rank),
    bubble=lambda p, vp, f, i, w: (p / 2.0 - 1.0) * (f + 2.0 * i - w) / 2.0,
    placement=MIRROR, splits_backward=True,
)  # fmt: skip
def _dualpipe(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """Half of the microbatches enter at each end of the ranks, which hold two copies of the model between them.

    Bubble (p / 2 - 1)(f&b + b - 3 w) with b = i + w and f&b the pair that runs together
    [DeepSeek-AI 2024, arXiv:2412.19437, table 2], here f + b as this order runs one after the other.
    """
    half, from_front = num_microbatches // 2, rank < num_stages // 2
    position = rank if from_front else num_stages - 1 - rank
    front, back = rank, 2 * num_stages - 1 - rank
    chunks = (front, back) if from_front else (back, front)

    def microbatch(end: int, index: int) -> int:
        return index + half * (chunks[end] >= num_stages)

    return _both_ends(num_stages // 2, position, half, chunks, microbatch)


@schedule(
    "dualpipe-v", TWO_CHUNKS, _TWO_ROUNDS,
    in_flight=lambda p, m, vp, rank: np.minimum(2 * m, 2 * p + 1 + 0 * rank),
    bubble=lambda p, vp, f, i, w: (p - 1.0) * (f + 2.0 * i - w) / 2.0,
    placement=FOLD, splits_backward=True,
)  # fmt: skip
def _dualpipe_v(num_stages: int, num_microbatches: int, vp: int, rank: int) -> Iterator[Action]:
    """DualPipe cut in half: two chunks a rank in the shape of a V, one copy of the model.

    With 2 p stages on p ranks, bubble (p - 1)(f&b + b - 3 w) of a stage [deepseek-ai/DualPipe, README;
    Qi 2025, "DualPipe could be better without the Dual"].
    """
    chunks = (rank, 2 * num_stages - 1 - rank)
    return _both_ends(num_stages, rank, num_microbatches, chunks, lambda end, index: index)
