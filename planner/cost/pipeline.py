"""How long the pipelines of many plans take, from the prices of their chunks: the longest path of each schedule.

The simulator finds the same figures by playing the actions; the tests compare the two, and both with the
bubbles that the authors of the schedules give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.cost.critical import (
    PRICED,
    Paths,
    beside,
    dwelling_paths,
    extended,
    graph,
    joined,
    longest_paths,
    with_messages,
    with_queues,
)
from planner.cost.grid import distinct_rows
from planner.cost.stages import StageTimes
from planner.plan import SCHEDULE_NAMES, PlanGrid
from planner.work.schedules import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HEAVIER = 1.3
"""How much heavier a chunk is made, one kind after the other, to find the paths that dwell on it."""
MOST_KINDS = 6
"""Kinds of chunks that are tried so; the heaviest ones where there are more."""
NUM_MIXED = 8
"""Trials that scale every kind by a factor of its own."""
PLAYED_FRACTION = 0.03
"""A message against a forward, in the play that tells the order of messages that keep ranks busy."""
STEP = 1.05
"""Typical prices of chunks are rounded to powers of this, which moves them less than the trials do."""
FEW_CHUNKS, MANY_CHUNKS = 16, 64
"""Pipelines of few chunks are small enough to look at more rounds and every part of one; of many, at fewer."""
TRANSFER_FRACTIONS = (0.0, 0.03, 0.3)
"""Transfers, as fractions of a forward, under which paths are looked for."""
SLOW_FRACTION = 0.3
"""Of a forward, beyond which messages beside compute wait for one another often enough to matter."""
SLOW_FRACTIONS = (0.5, 1.0, 2.0, 4.0)
"""Transfers under which paths through the queues of slow messages are looked for."""


@dataclass(frozen=True, slots=True)
class PipelineTimes:
    """Seconds from the first forward to the last backward of each plan, shape (plans,)."""

    silent: Floats
    """With messages that take no time."""
    whole: Floats


def pipeline_times(
    grid: PlanGrid,
    num_microbatches: Ints,
    stages: StageTimes,
    transfer_seconds: Floats,
    transfer_of: Ints,
    *,
    overlaps: bool,
) -> PipelineTimes:
    """The makespan of every plan. Exact in the regimes of prices that were looked at, else a little low.

    `transfer_seconds` are messages between neighbouring ranks, of which plan i sends the one at transfer_of[i];
    `overlaps` says that they travel beside compute, else a rank is busy while it receives. Raises ValueError for a
    plan whose schedule cannot run.
    """
    class_rows, class_of = distinct_rows([stages.shape_of, grid.schedule, num_microbatches])
    rows, row_of = distinct_rows([class_of, stages.work_of, transfer_of])
    order = np.argsort(class_of[rows], kind="stable")
    ends = np.cumsum(np.bincount(class_of[rows], minlength=len(class_rows)))
    silent, whole = np.empty(len(rows)), np.empty(len(rows))
    for start, end, row in zip([0, *ends], ends, class_rows, strict=False):
        own = order[start:end]
        shape = stages.shapes[stages.shape_of[row]]
        name = SCHEDULE_NAMES[grid.schedule[row]]
        typical = _rounded(_passes_of(name, shape.typical)).astype(np.float32).tobytes()
        transfers, work = transfer_seconds[transfer_of[rows[own]]], stages.work_of[rows[own]]
        forward = shape.prices[list(shape.kinds), 0].mean(axis=0)[work]
        queued = overlaps & (transfers > SLOW_FRACTION * forward)
        for is_slow in (False, True):
            some = np.flatnonzero(queued == is_slow)
            if not len(some):
                continue
            paths = paths_of(
                name, int(grid.pp[row]), int(num_microbatches[row]), int(grid.vp[row]), shape.kinds, typical, overlaps,
                is_slow,
            )  # fmt: skip
            silent[own[some]], whole[own[some]] = _longest(paths, shape.prices, work[some], transfers[some])
    return PipelineTimes(silent[row_of], whole[row_of])


def _longest(paths: Paths, prices: Floats, work: Ints, transfer_seconds: Floats) -> tuple[Floats, Floats]:
    """Seconds of the longest path without and with its messages, of plans with the prices [..., work]; (plans,)."""
    used = np.flatnonzero(paths.num_actions.any(axis=0))
    seconds = paths.num_actions[:, used] @ prices[np.divmod(used, len(PRICED))][:, work]
    silent = seconds.max(axis=0)
    seconds += paths.num_transfers[:, None] * transfer_seconds
    return silent, seconds.max(axis=0)


def _passes_of(schedule: str, typical: Floats) -> Floats:
    """`typical`, without the halves of backward passes that another plan's schedule, and not this one, runs."""
    runs = np.array([True, True, *[SCHEDULES[schedule].splits_backward] * (len(PRICED) - 2)])
    return np.where(runs[:, None], typical, 0.0)


def _rounded(typical: Floats) -> Floats:
    """Prices as multiples of their mean, in steps of `STEP`: pipelines priced nearly alike share their paths."""
    relative = typical / typical.mean(axis=(0, 1), keepdims=True)
    return np.where(relative > 0.0, STEP ** np.round(np.log(np.maximum(relative, 1e-12)) / np.log(STEP)), 0.0)


@lru_cache(maxsize=4096)
def paths_of(
    schedule: str, num_stages: int, num_microbatches: int, vp: int, kinds: tuple[int, ...], typical: bytes,
    overlaps: bool, is_slow: bool = False,
) -> Paths:  # fmt: skip
    """The paths that bound a schedule over chunks of `kinds`, counted by kind; `typical` are prices of each kind.

    With `is_slow` also those through the queues of messages beside compute that take longer than a forward or so.
    After the first rounds every further round of p microbatches lengthens a path by the same actions, so that long
    steps are extended from three short ones. With many chunks a part of a round counts as its share.
    """
    first = num_stages if len(kinds) > MANY_CHUNKS else 2 * num_stages
    if len(kinds) <= FEW_CHUNKS:
        first = 4 * num_stages + num_microbatches % num_stages
    requirements = SCHEDULES[schedule].requirements
    if not all(rule.holds(num_stages, first, vp) for rule in requirements):
        first += num_stages
    steps = [first + index * num_stages for index in range(3)]
    if num_microbatches <= steps[-1]:
        return joined(_found(schedule, num_stages, num_microbatches, vp, kinds, typical, overlaps, is_slow))
    found = [_found(schedule, num_stages, number, vp, kinds, typical, overlaps, is_slow) for number in steps]
    num_rounds = (num_microbatches - first) / num_stages
    return joined([extended(one, two, three, num_rounds) for one, two, three in zip(*found, strict=True)])


@lru_cache(maxsize=4096)
def _found(
    schedule: str, num_stages: int, num_microbatches: int, vp: int, kinds: tuple[int, ...], typical: bytes,
    overlaps: bool, is_slow: bool,
) -> tuple[Paths, Paths]:  # fmt: skip
    """(longest paths under trial prices, paths that dwell on each rank), by kind of chunk."""
    by_kind = np.frombuffer(typical, dtype=np.float32).astype(float).reshape(max(kinds) + 1, len(PRICED), -1)
    shape = graph(schedule, num_stages, num_microbatches, vp)
    if not overlaps:
        first = by_kind[list(kinds), :, 0]
        shape = with_messages(shape, first.reshape(-1), PLAYED_FRACTION * float(first[:, 0].mean()))
    looks = [(shape, TRANSFER_FRACTIONS), *([(with_queues(shape), SLOW_FRACTIONS)] if is_slow else [])]
    longest = []
    for one, fractions in looks:
        trials, transfers = _trials(by_kind, fractions)
        longest.append(longest_paths(one, trials[list(kinds)].reshape(len(kinds) * len(PRICED), -1), transfers))
    return _counted(beside(longest), kinds), _counted(dwelling_paths(shape), kinds)


def _trials(by_kind: Floats, fractions: Sequence[float]) -> tuple[Floats, Floats]:
    """Prices (kinds, F B I W, trials) and transfers (trials,): every kind heavier in turn, with and without them."""
    weight = by_kind[:, :2].sum(axis=(1, 2))
    factors = np.ones((min(len(weight), MOST_KINDS) + 1, len(weight)))
    factors[np.arange(len(factors) - 1), np.argsort(-weight)[: len(factors) - 1]] = HEAVIER
    mixed = np.random.default_rng(0).uniform(1.0 / HEAVIER, HEAVIER, (NUM_MIXED, len(weight)))
    factors = np.concatenate([factors, mixed])
    prices = by_kind[:, :, :, None] * factors.T[:, None, None, :]
    prices = prices.reshape(*by_kind.shape[:2], -1)
    forward = prices[:, 0].mean(axis=0)
    repeated = np.concatenate([prices] * len(fractions), axis=2)
    return repeated, np.concatenate([fraction * forward for fraction in fractions])


def _counted(paths: Paths, kinds: tuple[int, ...]) -> Paths:
    """Paths over chunks as paths over kinds of chunks."""
    by_chunk = paths.num_actions.reshape(len(paths.num_transfers), len(kinds), len(PRICED))
    is_kind = np.equal.outer(np.array(kinds), np.arange(max(kinds) + 1)) * 1.0
    by_kind = np.einsum("pca,ck->pka", by_chunk, is_kind)
    return Paths(by_kind.reshape(len(paths.num_transfers), -1), paths.num_transfers)
