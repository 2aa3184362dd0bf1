"""Seconds of the pipeline stages of every plan of a grid, without the schedule that joins them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.grid import combinations
from planner.cost.phase import host_excess_seconds, load
from planner.plan import PlanGrid
from planner.work.layers import layer_work, sequence, stage_counts
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]

WORK_COLUMNS = (
    "tp", "cp", "ep", "etp", "cp_a2a", "cp_gather", "micro_batch", "recompute", "sequence_parallel",
)  # fmt: skip
"""What the work of a layer depends on."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """One microbatch on the stages (pipeline ranks, all their chunks) of each plan; seconds, shape (plans,)."""

    forward_sum: Floats
    backward_sum: Floats
    """Over stages; with recomputation, as every backward figure here."""
    forward_max: Floats
    backward_max: Floats
    total_max: Floats
    """The slowest stage's forward and backward."""
    first_forward: Floats
    first_backward: Floats
    """Stage 0, which ends a step last."""
    last_total: Floats
    """The last stage, forward and backward."""
    parts: dict[str, Floats]
    """Of the slowest stage: forward, backward, recompute, tp, cp, ep, host."""


def stage_times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> StageTimes:
    """Price every layer kind once for each combination of WORK_COLUMNS and add them up by stage."""
    rows, work_of = combinations(grid, WORK_COLUMNS)
    distinct = grid.take(rows)
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    works = [layer_work(job, kind, distinct, stack) for kind in kinds]
    forward = np.stack([load(work.forward, distinct, cluster, stack) for work in works])
    backward = np.stack([load(work.backward, distinct, cluster, stack) for work in works])

    shape_rows, shape_of = combinations(grid, ("pp", "vp"))
    tables = []
    for row in shape_rows:
        pp, vp = int(grid.pp[row]), int(grid.vp[row])
        counts = stage_counts(job.model, pp * vp)
        matrix = np.array([[chunk.get(kind, 0) for kind in kinds] for chunk in counts], dtype=float)
        tables.append(_table(_by_stage(matrix, forward, pp), _by_stage(matrix, backward, pp)))
    table = np.stack(tables, axis=1)  # (rows of the table, pipeline shapes, combinations)
    flat = table.reshape(len(table), -1)
    columns = np.take(flat, shape_of * len(rows) + work_of, axis=1)
    named = dict(zip(_NAMES, columns, strict=True))
    return StageTimes(
        **{name: named[name] for name in _NAMES[:_NUM_SCALARS]},
        parts={name: named[name] for name in _NAMES[_NUM_SCALARS:]},
    )


_NAMES = (
    "forward_sum", "backward_sum", "forward_max", "backward_max", "total_max",
    "first_forward", "first_backward", "last_total",
    "forward", "backward", "recompute", "tp", "cp", "ep", "host",
)  # fmt: skip
_NUM_SCALARS = 8


def _by_stage(matrix: Floats, loads: Floats, num_stages: int) -> Floats:
    """Loads of stages, (stages, 6 + host excess, combinations), from loads of kinds and counts by chunk."""
    chunks = np.einsum("ck,kfu->cfu", matrix, loads)
    chunks[:, 5, :] = host_excess_seconds(chunks)
    return chunks.reshape(-1, num_stages, *chunks.shape[1:]).sum(axis=0)


def _table(forward: Floats, backward: Floats) -> Floats:
    """The rows named by _NAMES for one pipeline shape, (names, combinations)."""
    forward_total, backward_total = forward.sum(axis=1), backward.sum(axis=1)
    total = forward_total + backward_total
    slowest = total.argmax(axis=0)

    def at_slowest(values: Any) -> Any:
        return np.take_along_axis(values, slowest[None, :], axis=0)[0]

    parts = [
        at_slowest(forward[:, 0]),
        at_slowest(backward[:, 0]),
        at_slowest(forward[:, 1] + backward[:, 1]),
    ]
    parts += [at_slowest(forward[:, field] + backward[:, field]) for field in (2, 3, 4, 5)]
    return np.stack([
        forward_total.sum(axis=0), backward_total.sum(axis=0), forward_total.max(axis=0), backward_total.max(axis=0),
        total.max(axis=0), forward_total[0], backward_total[0], total[-1], *parts,
    ])  # fmt: skip
