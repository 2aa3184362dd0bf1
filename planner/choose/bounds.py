"""Lower bounds on a plan's step: what a search may discard without pricing the rest of it."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import WORK_COLUMNS
from planner.cost.grid import combinations
from planner.cost.phase import LOAD_FIELDS, load
from planner.plan import PlanGrid
from planner.work.layers import layer_work, sequence
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]

_BLOCKING_ROWS = LOAD_FIELDS.index("ep")
"""Rows of a load that keep the compute stream: kernels, kernels run again, messages of tp and cp."""


def busy_bound_seconds(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Floats:
    """Seconds that kernels and blocking messages keep the mean pipeline rank busy, shape (plans,).

    m / p * sum over layers of (forward + backward + recomputation + tp + cp). No step is shorter: the slowest rank
    is at least as busy as the mean one, and waiting, other messages, launches and the optimizer only add to it.
    """
    rows, inverse = combinations(grid, WORK_COLUMNS)
    distinct = grid.take(rows)
    total = np.zeros(len(rows))
    for kind, count in Counter(sequence(job.model)).items():
        work = layer_work(job, kind, distinct, stack)
        for direction in (work.forward, work.backward):
            total += count * load(direction, distinct, cluster, stack)[:_BLOCKING_ROWS].sum(axis=0)
    return total[inverse] * grid.num_microbatches(job.global_batch) / grid.pp
