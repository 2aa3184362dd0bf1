"""Data parallelism: gradient reduction, optimizer step and parameter gather of the first pipeline rank.

The first rank ends its backward passes last, so what it cannot hide is what the step waits for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import GRADIENT_COLUMNS
from planner.cost.grid import combinations, distinct_rows, gather
from planner.cost.phase import load, priced_message
from planner.layout import layout_of
from planner.plan import SCHEDULE_NAMES, PlanGrid
from planner.work.layers import layer_parameters, rank_chunks, sequence
from planner.work.lower import data_parallel_work, num_buckets
from planner.work.ops import Message
from planner.work.program import Kind
from planner.work.sharding import gathers_in_forward, reduces_in_backward
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradientTimes:
    """Seconds alone on their streams, and the buckets that let them overlap; shape (plans,).

    Only what happens once a step; messages of every microbatch are `planner.cost.layered`'s.
    """

    reduce: Floats
    gather: Floats
    optimizer: Floats
    num_buckets: Floats


def gradient_times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> GradientTimes:
    """Price the data-parallel work of pipeline rank 0 once for each combination it depends on."""
    compresses = job.exchange.gradient_compression != "none"
    rows, inverse = combinations(grid, (*GRADIENT_COLUMNS, "micro_batch") if compresses else GRADIENT_COLUMNS)
    distinct = grid.take(rows)
    shape_columns = [distinct.schedule, distinct.pp, distinct.vp, distinct.layout]
    shape_rows, shape_of = distinct_rows(shape_columns)
    counts = [
        rank_chunks(job.model, SCHEDULE_NAMES[code], int(pp), int(vp), layout_of(layout))[0]
        for code, pp, vp, layout in zip(*(column[shape_rows] for column in shape_columns), strict=True)
    ]
    dense, expert = np.zeros(len(rows)), np.zeros(len(rows))
    for kind in dict.fromkeys(sequence(job.model)):
        held = np.array([sum(chunk.get(kind, 0) for chunk in chunks) for chunks in counts], dtype=float)[shape_of]
        parameters = layer_parameters(job.model, kind, distinct)
        dense, expert = dense + held * parameters[0], expert + held * parameters[1]
    work = data_parallel_work(dense, expert, distinct, job, stack)

    def seconds(kind: Kind) -> Floats:
        total = np.zeros(len(rows))
        for op, count in work[kind].ops:
            assert isinstance(op, Message)
            total = total + count * priced_message(op, distinct, cluster)
        return total

    once = 1.0 - reduces_in_backward(distinct), 1.0 - gathers_in_forward(distinct)
    optimizer = load(work[Kind.OPTIMIZER], distinct, cluster, stack)[0]
    layers = np.array([sum(sum(chunk.values()) for chunk in chunks) for chunks in counts], dtype=float)[shape_of]
    buckets = num_buckets(layers, dense + expert, distinct, job, stack)
    columns = (once[0] * seconds(Kind.REDUCE_GRADIENTS), once[1] * seconds(Kind.GATHER_PARAMETERS), optimizer, buckets)
    return GradientTimes(*gather(np.stack(columns), inverse))
