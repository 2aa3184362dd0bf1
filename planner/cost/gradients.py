"""Data parallelism: gradient reduction, optimizer step and parameter gather of the first pipeline rank.

The first rank ends its backward passes last, so what it cannot hide is what the step waits for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.grid import combinations, gather
from planner.cost.phase import load, priced_message
from planner.plan import PlanGrid
from planner.work.layers import layer_parameters, sequence, stage_counts
from planner.work.lower import data_parallel_work, num_buckets
from planner.work.ops import Message
from planner.work.program import Kind
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]


_COLUMNS = ("tp", "cp", "ep", "etp", "dp", "pp", "vp", "zero_stage", "dp_replicate")
"""Plan fields the gradient times depend on."""


@dataclass(frozen=True, slots=True)
class GradientTimes:
    """Seconds alone on their streams, and the buckets that let them overlap; shape (plans,)."""

    reduce: Floats
    gather: Floats
    optimizer: Floats
    num_buckets: Floats


def gradient_times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> GradientTimes:
    """Price the data-parallel work of pipeline rank 0 once for each combination it depends on."""
    rows, inverse = combinations(grid, _COLUMNS)
    distinct = grid.take(rows)
    counts = [
        stage_counts(job.model, int(pp * vp))[:: int(pp)] for pp, vp in zip(distinct.pp, distinct.vp, strict=True)
    ]
    dense, expert = np.zeros(len(rows)), np.zeros(len(rows))
    for kind in dict.fromkeys(sequence(job.model)):
        held = np.array([sum(chunk.get(kind, 0) for chunk in chunks) for chunks in counts], dtype=float)
        parameters = layer_parameters(job.model, kind, distinct)
        dense, expert = dense + held * parameters[0], expert + held * parameters[1]
    work = data_parallel_work(dense, expert, distinct, job, stack)

    def seconds(kind: Kind) -> Floats:
        total = np.zeros(len(rows))
        for op, count in work[kind].ops:
            assert isinstance(op, Message)
            total = total + count * priced_message(op, distinct, cluster)
        return total

    optimizer = load(work[Kind.OPTIMIZER], distinct, cluster, stack)[0]
    buckets = np.array([num_buckets(sum(sum(chunk.values()) for chunk in chunks)) for chunks in counts], dtype=float)
    columns = (seconds(Kind.REDUCE_GRADIENTS), seconds(Kind.GATHER_PARAMETERS), optimizer, buckets)
    return GradientTimes(*gather(np.stack(columns), inverse))


def exposed_seconds(
    communication: Floats,
    compute: Floats,
    num_buckets: Floats,
    *,
    overlaps: bool,
    vp: Any = 1.0,
    num_stages: Any = 1.0,
) -> Floats:
    """What `communication` in buckets leaves uncovered by the `compute` that makes (or uses) them.

    All of it without overlap; else max(t / n, t - c (1 - 1/n)): the last bucket is never covered, the others
    run beside the compute that remains [Li 2020, PyTorch Distributed, arXiv:2006.15704, section 3.2.2].
    With v chunks a rank this holds for the chunk that ends the step, with t / v, c / v and n / v; the gradients
    of the other chunks are ready (v - 1) p chunks of compute earlier (derived from the interleaved order).
    """
    if not overlaps:
        return communication
    own, chunk, share = communication / vp, compute / vp, vp / num_buckets
    beside = chunk * (1.0 - share)
    earlier = (vp - 1.0) * num_stages * chunk
    return np.maximum(own * share, np.maximum(own - beside, communication - earlier - beside))
