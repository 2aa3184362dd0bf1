"""Lower bounds on a plan's step: what a search may discard without pricing the rest of it."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import STAGE_COLUMNS, WORK_COLUMNS
from planner.cost.grid import combinations
from planner.cost.phase import LOAD_FIELDS, load
from planner.layout import layout_of
from planner.plan import SCHEDULE_NAMES, PlanGrid
from planner.work.layers import layer_work, rank_chunks, sequence
from planner.work.schedules import LOOP, SCHEDULES
from profiles.cluster import Cluster
from profiles.model import ModelShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]

_BLOCKING_ROWS = LOAD_FIELDS.index("ep")
"""Rows of a load that keep the compute stream: kernels, kernels run again, messages of tp and cp."""


def busy_bound_seconds(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Floats:
    """Seconds that kernels and blocking messages alone take, on the mean rank or the last; shape (plans,).

    The mean pipeline rank: m / p * sum over layers of (forward + backward + recomputation + tp + cp); the slowest is
    at least as busy. The last rank: its own m microbatches, and the first chunks of the ranks before it, forward
    before it begins and backward after it ends [Narayanan 2021, arXiv:2104.04473, section 2.2]. No step is shorter:
    waiting, other messages, launches and the optimizer only add to it.
    """
    rows, inverse = combinations(grid, WORK_COLUMNS)
    distinct = grid.take(rows)
    shape_rows, shape_of = combinations(grid, STAGE_COLUMNS)
    layers = Counter(sequence(job.model))
    on_path = np.stack([_on_last_rank(grid, row, job.model, tuple(layers)) for row in shape_rows], axis=-1)
    num_microbatches = grid.num_microbatches(job.global_batch)
    mean, last = np.zeros(len(grid)), np.zeros(len(grid))
    for (kind, count), (own, before) in zip(layers.items(), on_path, strict=True):
        work = layer_work(job, kind, distinct, stack)
        parts = (load(part, distinct, cluster, stack) for part in (work.forward, work.backward))
        seconds = sum((part[:_BLOCKING_ROWS].sum(axis=0) for part in parts), np.zeros(len(rows)))[inverse]
        mean += count * seconds
        last += (num_microbatches * own[shape_of] + before[shape_of]) * seconds
    return np.maximum(mean * num_microbatches / grid.pp, last)


def _on_last_rank(grid: PlanGrid, row: int, model: ModelShape, kinds: tuple[str, ...]) -> Floats:
    """(layers of the last rank, layers of the first chunks before it), (kinds, 2); 0 where no bound follows.

    A rank of a schedule that goes round the ranks has nothing to do before a microbatch came through the first
    chunks of those before it; where all of a backward pass is waited for, none after the last one went back.
    """
    name = SCHEDULE_NAMES[grid.schedule[row]]
    found = np.zeros((len(kinds), 2))
    if SCHEDULES[name].placement is LOOP and not SCHEDULES[name].splits_backward:
        *before, last = rank_chunks(model, name, int(grid.pp[row]), int(grid.vp[row]), layout_of(grid.layout[row]))
        for column, chunks in enumerate((last, [first[0] for first in before])):
            found[:, column] = [sum(chunk.get(kind, 0) for chunk in chunks) for kind in kinds]
    return found
