"""Seconds of the pipeline stages of every plan of a grid, without the schedule that joins them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.grid import combinations
from planner.cost.layered import LayerTimes, backward_exposed_seconds, forward_exposed_seconds
from planner.cost.overlap import stack_contention_fraction
from planner.cost.phase import layer_times, load, settled
from planner.plan import PlanGrid
from planner.work.layers import layer_parameters, layer_work, sequence, stage_counts
from planner.work.lower import data_parallel_work
from planner.work.sharding import layer_slots, runs_messages_by_layer
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]

WORK_COLUMNS = (
    "tp", "cp", "ep", "etp", "cp_a2a", "cp_gather", "micro_batch", "recompute", "recompute_modules",
    "num_recomputed_layers", "sequence_parallel",
)  # fmt: skip
"""What the work of a layer depends on."""
SHARDING_COLUMNS = ("dp", "pp", "zero_stage", "reshard_after_forward", "dp_replicate")
"""What its data-parallel messages depend on besides."""


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
    """Of the slowest stage: forward, backward, recompute, tp, cp, ep, host, dp (of every microbatch)."""


def stage_times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> StageTimes:
    """Price every layer kind once for each combination of columns it depends on and add them up by stage."""
    columns = np.empty((len(_NAMES), len(grid)))
    by_layer = np.where(runs_messages_by_layer(grid), grid.pp, 0)
    for pp in np.unique(by_layer):
        rows = np.flatnonzero(by_layer == pp)
        some = grid if len(rows) == len(grid) else grid.take(rows)
        columns[:, rows] = _stage_columns(some, job, cluster, stack, by_layer=bool(pp))
    named = dict(zip(_NAMES, columns, strict=True))
    return StageTimes(
        **{name: named[name] for name in _NAMES[:_NUM_SCALARS]},
        parts={name: named[name] for name in _NAMES[_NUM_SCALARS:]},
    )


def _stage_columns(
    grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack, *, by_layer: bool
) -> Floats:
    """The rows named by _NAMES, (names, plans), of plans that all, or none, run messages layer by layer."""
    rows, work_of = combinations(grid, (*WORK_COLUMNS, *SHARDING_COLUMNS) if by_layer else WORK_COLUMNS)
    distinct = grid.take(rows)
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    works = [layer_work(job, kind, distinct, stack) for kind in kinds]
    forward = np.stack([load(work.forward, distinct, cluster, stack) for work in works])
    backward = np.stack([load(work.backward, distinct, cluster, stack) for work in works])
    times: dict[str, LayerTimes] = {}
    for index, kind in enumerate(kinds if by_layer else ()):
        messages = data_parallel_work(*layer_parameters(job.model, kind, distinct), distinct, job, stack)
        times[kind] = layer_times(kind, forward[index], backward[index], messages, distinct, cluster, stack)

    shape_rows, shape_of = combinations(grid, ("pp", "vp"))
    tables = []
    for row in shape_rows:
        pp, vp = int(grid.pp[row]), int(grid.vp[row])
        counts = stage_counts(job.model, pp * vp)
        matrix = np.array([[chunk.get(kind, 0) for kind in kinds] for chunk in counts], dtype=float)
        exposed = _exposed(counts, times, stack_contention_fraction(stack)) if by_layer else (None, None)
        tables.append(
            _table(
                _by_stage(matrix, forward, pp, exposed[0], stack), _by_stage(matrix, backward, pp, exposed[1], stack)
            )
        )
    table = np.stack(tables, axis=1)  # (rows of the table, pipeline shapes, combinations)
    flat = table.reshape(len(table), -1)
    return np.take(flat, shape_of * len(rows) + work_of, axis=1)


def _exposed(
    counts: Sequence[Mapping[str, int]], times: Mapping[str, LayerTimes], contention_fraction: float
) -> list[Floats]:
    """What messages add to the forwards and to the backwards of every chunk, each (chunks, combinations)."""
    slots = [layer_slots(chunk) for chunk in counts]
    return [
        np.stack([exposed(chunk, times, contention_fraction) for chunk in slots])
        for exposed in (forward_exposed_seconds, backward_exposed_seconds)
    ]


_NAMES = (
    "forward_sum", "backward_sum", "forward_max", "backward_max", "total_max",
    "first_forward", "first_backward", "last_total",
    "forward", "backward", "recompute", "tp", "cp", "ep", "host", "dp",
)  # fmt: skip
_NUM_SCALARS = 8


def _by_stage(matrix: Floats, loads: Floats, num_stages: int, exposed: Floats | None, stack: SoftwareStack) -> Floats:
    """Loads of stages, (stages, 7, combinations), from loads of kinds and counts by chunk.

    The last two rows are what the host and what data-parallel messages (`exposed`, by chunk) add.
    """
    chunks = settled(np.einsum("ck,kfu->cfu", matrix, loads), stack)
    messages = np.zeros_like(chunks[:, :1, :]) if exposed is None else exposed[:, None, :]
    chunks = np.concatenate([chunks, messages], axis=1)
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
    parts += [at_slowest(forward[:, field] + backward[:, field]) for field in (2, 3, 4, 5, 6)]
    return np.stack([
        forward_total.sum(axis=0), backward_total.sum(axis=0), forward_total.max(axis=0), backward_total.max(axis=0),
        total.max(axis=0), forward_total[0], backward_total[0], total[-1], *parts,
    ])  # fmt: skip
