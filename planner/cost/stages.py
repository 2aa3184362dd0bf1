"""Seconds of the chunks and stages of every plan of a grid, without the schedule that joins them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import SHARDING_COLUMNS, WORK_COLUMNS
from planner.cost.grid import distinct_rows
from planner.cost.layered import (
    LayerTimes,
    backward_exposed_seconds,
    forward_exposed_seconds,
    last_backward_added_seconds,
)
from planner.cost.overlap import stack_contention_fraction
from planner.cost.phase import layer_times, load, settled
from planner.layout import layout_of
from planner.plan import SCHEDULE_NAMES, Plan, PlanGrid, Recompute
from planner.work.layers import layer_parameters, layer_work, sequence, stage_counts
from planner.work.lower import data_parallel_work
from planner.work.schedules import SCHEDULES, Placement, splits_backward
from planner.work.sharding import layer_slots, runs_messages_by_layer
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_PARTS, NUM_ROWS = 7, 9
"""Parts of a chunk's seconds, and rows of the tables that hold them (`_chunk_parts`)."""
NUM_PASSES = 4
"""Forward, whole backward, and its two parts."""
TYPICAL = (Plan(), Plan(recompute=Recompute.FULL))
"""Splits whose prices tell the regimes of a pipeline apart: the ratios of its chunks and directions."""


@dataclass(frozen=True, slots=True)
class ShapeTimes:
    """The chunks of one pipeline shape; chunks with the same layers are of one kind."""

    kinds: tuple[int, ...]
    """The kind of every chunk, by chunk."""
    prices: Floats
    """Seconds of one action, (kinds, F B I W, combinations of columns); I and W only where a schedule has them."""
    typical: Floats
    """The same under TYPICAL, (kinds, F B I W, splits)."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """One microbatch on the stages (pipeline ranks, all their chunks) of each plan; seconds, shape (plans,)."""

    total_sum: Floats
    """Over stages; forward and backward, with recomputation as every backward figure here."""
    total_max: Floats
    """The slowest stage's forward and backward."""
    first_forward: Floats
    first_backward: Floats
    first_weight: Floats
    """Stage 0, which ends a step last: forward, backward, and the part of that for gradients of weights."""
    last_added: Floats
    last_tail: Floats
    """Where backward passes carry messages layer by layer: what reducing gradients adds to the last one of every chunk
    of stage 0, and the reductions of their first layers, which run behind them."""
    parts: dict[str, Floats]
    """Of the slowest stage: forward, backward, recompute, tp, cp, ep, host, dp (of every microbatch)."""
    shapes: tuple[ShapeTimes, ...]
    shape_of: Ints
    """The pipeline shape of each plan."""
    work_of: Ints
    """The combination of columns of each plan, among those of its shape."""


def stage_times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> StageTimes:
    """Price every layer kind once for each combination of columns it depends on and add them up by stage."""
    by_layer = np.where(runs_messages_by_layer(grid), grid.pp, 0)
    if not by_layer.any():
        found = _times(grid, job, cluster, stack, by_layer=False)
        return _named(found.columns, found.shapes, found.shape_of, found.work_of)
    columns = np.empty((len(_NAMES), len(grid)))
    shapes: list[ShapeTimes] = []
    shape_of, work_of = np.empty(len(grid), dtype=np.int64), np.empty(len(grid), dtype=np.int64)
    for pp in np.unique(by_layer):
        rows = np.flatnonzero(by_layer == pp)
        some = grid if len(rows) == len(grid) else grid.take(rows)
        found = _times(some, job, cluster, stack, by_layer=bool(pp))
        columns[:, rows], work_of[rows] = found.columns, found.work_of
        shape_of[rows] = found.shape_of + len(shapes)
        shapes += found.shapes
    return _named(columns, shapes, shape_of, work_of)


def _named(columns: Floats, shapes: Sequence[ShapeTimes], shape_of: Ints, work_of: Ints) -> StageTimes:
    """The rows of `columns` by their names in _NAMES."""
    named = dict(zip(_NAMES, columns, strict=True))
    return StageTimes(
        **{name: named[name] for name in _NAMES[:_NUM_SCALARS]},
        parts={name: named[name] for name in _NAMES[_NUM_SCALARS:]},
        shapes=tuple(shapes), shape_of=shape_of, work_of=work_of,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Times:
    """What `stage_times` joins, of plans that all, or none, run messages layer by layer."""

    columns: Floats
    """The rows named by _NAMES, (names, plans)."""
    shapes: list[ShapeTimes]
    shape_of: Ints
    work_of: Ints


@dataclass(frozen=True, slots=True)
class _Layers:
    """Every kind of layer, priced for combinations of columns."""

    kinds: tuple[str, ...]
    loads: Floats
    """(kinds, F B I W, load fields, combinations); I and W only where a schedule splits backward passes."""
    times: Mapping[str, LayerTimes]
    """With the messages of a layer, where they come layer by layer."""


def _times(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack, *, by_layer: bool) -> _Times:
    names = (*WORK_COLUMNS, *SHARDING_COLUMNS) if by_layer else WORK_COLUMNS
    rows, work_of = distinct_rows([getattr(grid, name) for name in names])
    splits = bool(np.any(splits_backward(grid.schedule)))
    layers = _layers(_with_typical(grid.take(rows)), job, cluster, stack, by_layer=by_layer, splits=splits)
    placement_of = _PLACEMENT_OF[grid.schedule]
    shape_rows, shape_of = distinct_rows([placement_of, grid.pp, grid.vp, grid.layout])
    tables, shapes = [], []
    for row in shape_rows:
        placement, pp, vp = _PLACEMENTS[placement_of[row]], int(grid.pp[row]), int(grid.vp[row])
        pieces = stage_counts(job.model, placement.num_pieces(pp, vp), layout_of(grid.layout[row]))
        counts = list({tuple(piece.items()): piece for piece in pieces}.values())
        kinds = tuple(counts.index(pieces[piece]) for piece in placement.pieces(pp, vp))
        chunks = _chunk_parts(counts, layers, stack)
        seconds = chunks[:, :, :NUM_PARTS].sum(axis=2)
        typical = np.zeros((len(counts), NUM_PASSES, len(TYPICAL)))
        typical[:, : seconds.shape[1]] = seconds[..., len(rows) :]
        shapes.append(ShapeTimes(kinds, seconds[..., : len(rows)], typical))
        held, num_alike = _stages(placement, pp, vp, kinds)
        tables.append(_table(np.tensordot(held, chunks[..., : len(rows)], axes=1), num_alike))
    flat = np.stack(tables, axis=1).reshape(len(_NAMES), -1)
    columns = np.zeros((len(_NAMES), len(grid)))
    place_of = shape_of * len(rows) + work_of
    for values, row in zip(flat, columns, strict=True):
        if values.any():  # a part that no plan has stays zero
            np.take(values, place_of, out=row, mode="clip")
    return _Times(columns, shapes, shape_of, work_of)


def _stages(placement: Placement, pp: int, vp: int, kinds: Sequence[int]) -> tuple[Floats, Floats]:
    """Chunks of each kind on every stage that differs from those before it, and how many stages are like it."""
    held = np.zeros((pp, max(kinds) + 1))
    np.add.at(held, (list(placement.ranks(pp, vp)), list(kinds)), 1.0 / placement.num_copies)
    _, first, num_alike = np.unique(held, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return held[first[order]], num_alike[order].astype(float)


_PLACEMENTS: tuple[Placement, ...] = tuple({SCHEDULES[name].placement: None for name in SCHEDULE_NAMES})
_PLACEMENT_OF = np.array([_PLACEMENTS.index(SCHEDULES[name].placement) for name in SCHEDULE_NAMES])

_NAMES = (
    "total_sum", "total_max", "first_forward", "first_backward", "first_weight", "last_added", "last_tail",
    "forward", "backward", "recompute", "tp", "cp", "ep", "host", "dp",
)  # fmt: skip
_NUM_SCALARS = 7


def _with_typical(distinct: PlanGrid) -> PlanGrid:
    typical = PlanGrid.of(TYPICAL)
    return PlanGrid(**{
        field.name: np.concatenate([getattr(distinct, field.name), getattr(typical, field.name)])
        for field in fields(PlanGrid)
    })  # fmt: skip


def _layers(
    distinct: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack, *, by_layer: bool, splits: bool
) -> _Layers:
    """Price every kind, with the two parts of its backward pass if a schedule `splits` it.

    Loads add up, so that of gradients of inputs is the backward's without the weights'.
    """
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    loads = []
    times: dict[str, LayerTimes] = {}
    for kind in kinds:
        work = layer_work(job, kind, distinct, stack)
        forward, backward = (load(part, distinct, cluster, stack) for part in (work.forward, work.backward))
        passes = [forward, backward]
        if splits:
            weights = load(work.weight_gradient, distinct, cluster, stack)
            passes += [np.maximum(backward - weights, 0.0), weights]
        loads.append(np.stack(passes))
        if by_layer:
            messages = data_parallel_work(*layer_parameters(job.model, kind, distinct), distinct, job, stack)
            times[kind] = layer_times(kind, passes, messages, distinct, cluster, stack)
    return _Layers(kinds, np.stack(loads), times)


def _chunk_parts(counts: Sequence[Mapping[str, int]], layers: _Layers, stack: SoftwareStack) -> Floats:
    """Seconds of chunks of `counts` layers by part, (chunks, F B I W, NUM_ROWS, combinations).

    The parts are those of a load, with what the host adds in place of its launches, and what messages layer by
    layer add. Those wait for forwards and for gradients of inputs. Behind these 7 parts follow, of whole backwards, the
    two rows of `last_backward_added_seconds`.
    """
    matrix = np.array([[chunk.get(kind, 0) for kind in layers.kinds] for chunk in counts], dtype=float)
    loads = np.tensordot(matrix, layers.loads, axes=1)
    parts = np.concatenate([settled(loads, stack), np.zeros_like(loads[:, :, : NUM_ROWS - 6])], axis=2)
    contention = stack_contention_fraction(stack)
    if layers.times:
        for index, chunk in enumerate(counts):
            slots = layer_slots(chunk)
            parts[index, 0, 6] = forward_exposed_seconds(slots, layers.times, contention)
            parts[index, 1, 6] = backward_exposed_seconds(slots, layers.times, contention)
            if parts.shape[1] > 2:
                inputs = {kind: replace(one, backward=one.backward_input) for kind, one in layers.times.items()}
                parts[index, 2, 6] = backward_exposed_seconds(slots, inputs, contention)
            parts[index, 1, 7], parts[index, 1, 8] = last_backward_added_seconds(slots, layers.times, contention)
    return parts


def _table(stages: Floats, num_alike: Floats) -> Floats:
    """The rows named by _NAMES for one pipeline shape, (names, combinations).

    `stages` are those that differ, (stages, F B I W, NUM_ROWS, combinations), and `num_alike` how many are like each.
    """
    last = stages[0, 1, NUM_PARTS:]
    stages = stages[:, :, :NUM_PARTS]
    forward, backward = stages[:, 0], stages[:, 1]
    both = forward + backward
    total = both.sum(axis=1)
    slowest = total.argmax(axis=0)[None, :]
    first = [stages[0, passes].sum(axis=0) if passes < stages.shape[1] else 0.0 * total[0] for passes in (0, 1, 3)]
    of_slowest: list[Any] = [forward[:, 0], backward[:, 0], both[:, 1], *(both[:, part] for part in range(2, 7))]
    parts = [np.take_along_axis(part, slowest, axis=0)[0] for part in of_slowest]
    return np.stack([num_alike @ total, total.max(axis=0), *first, *last, *parts])
