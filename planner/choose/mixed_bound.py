"""What plans over several groups of nodes take at least, for many settings of a skeleton at once."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from planner.choose.skeletons import Skeleton
from planner.cost.columns import WORK_COLUMNS
from planner.cost.grid import combinations
from planner.cost.phase import load, settled
from planner.plan import PlanGrid
from planner.work.layers import layer_work, sequence
from profiles.mixed import MixedCluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def model_seconds(grid: PlanGrid, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> dict[str, Floats]:
    """Forward and backward of one microbatch through the whole model on each group's devices, shape (plans,).

    Layers are priced alone [Williams 2009, as `planner.cost.phase`]; a chunk's host floor acts on their sum.
    """
    rows, inverse = combinations(grid, WORK_COLUMNS)
    distinct = grid.take(rows)
    layers = Counter(sequence(job.model))
    found = {}
    for group in cluster.groups:
        total = np.zeros(len(rows))
        for kind, count in layers.items():
            work = layer_work(job, kind, distinct, stack)
            for part in (work.forward, work.backward):
                total += count * settled(load(part, distinct, group.cluster, stack), stack).sum(axis=0)
        found[group.name] = total[inverse]
    return found


def bound_seconds(
    skeleton: Skeleton, whole_model_seconds: Mapping[str, Floats], num_microbatches: Floats, num_chunks: Ints
) -> Floats:
    """Seconds of a step if layers and microbatches could be dealt out in any fractions, and messages were free.

    A lane whose stages lie on groups that need W_g for the whole model has a slowest stage of at least
    t = 1 / sum(1 / W_g), and fills in min(W_g) - t, divided by the chunks of a rank
    [Narayanan 2021, arXiv:2104.04473, section 2.2]. All lanes end together at T with the sum over replicas of
    1 + (T - fill - t) / t equal to the microbatches.
    """
    rate: Floats = np.zeros_like(num_microbatches)
    offset: Floats = np.zeros_like(num_microbatches)
    for replicas, stages in skeleton.lanes:
        held = Counter(stages)
        slowest = 1.0 / np.add.reduce([count / whole_model_seconds[name] for name, count in held.items()])
        least = np.minimum.reduce([whole_model_seconds[name] for name in held])
        fill = np.maximum(least - slowest, 0.0) / num_chunks
        rate = rate + replicas / slowest
        offset = offset + replicas * fill / slowest
    return (num_microbatches + offset) / rate
