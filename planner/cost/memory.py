"""Bytes on the fullest rank of a plan, by cause, for one plan or a grid of a million.

peak = states + gathered parameters + activations in flight + logits + working buffers, plus what the allocator
reserves beyond it and what lies outside the allocator. States: [Rajbhandari 2020, arXiv:1910.02054, section 3];
activations and schedules: [Korthikanti 2022, arXiv:2205.05198, section 4.2]; the structure and its constants were
checked on the allocator peaks of eight-device runs (MooreThreads/SimuMax@4dcaae513b docs/b200).
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import GRADIENT_COLUMNS, LOAD_COLUMNS
from planner.cost.grid import combinations
from planner.cost.stage_buffers import output_bytes, stage_buffers
from planner.cost.stage_loads import LayerBytes, StageLoads, fullest_candidates, rank_counts
from planner.cost.states import gathered_bytes, state_bytes
from planner.offload import Offload
from planner.plan import AXES, Plan, PlanGrid
from planner.work.host import offloads
from planner.work.schedules import chunks_per_rank, in_flight, waiting_losses
from planner.work.sharding import reduces_in_backward
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = Any
"""A float, or an array of one value a plan."""

NUM_HELD = 7
"""Parts of a breakdown that the allocator hands out: the first ones."""


@dataclass(frozen=True, slots=True)
class MemoryBreakdown:
    """Bytes of device memory on the fullest rank, by cause; the peak is their sum."""

    weights_bytes: Bytes = 0.0
    gradients_bytes: Bytes = 0.0
    optimizer_bytes: Bytes = 0.0
    gathered_bytes: Bytes = 0.0
    """Sharded parameters gathered for use."""
    activations_bytes: Bytes = 0.0
    """Kept between forward and backward, by all microbatches in flight."""
    logits_bytes: Bytes = 0.0
    """Logits and what the loss makes of them."""
    workspace_bytes: Bytes = 0.0
    """Alive while a layer runs: recomputed tensors, gradients of activations, library buffers."""
    fragmentation_bytes: Bytes = 0.0
    """Reserved by the allocator beyond what is allocated."""
    context_bytes: Bytes = 0.0
    """Outside the allocator: driver context, kernels, communicators."""

    def parts(self) -> dict[str, Bytes]:
        """Part name (without its unit) -> bytes, in the order of the fields."""
        return {field.name.removesuffix("_bytes"): getattr(self, field.name) for field in fields(self)}

    @property
    def allocated_bytes(self) -> Bytes:
        """What the framework's allocator reports as allocated at its peak."""
        return self.reserved_bytes - self.fragmentation_bytes

    @property
    def reserved_bytes(self) -> Bytes:
        """What the framework's allocator holds at its peak."""
        return self.device_bytes - self.context_bytes

    @property
    def device_bytes(self) -> Bytes:
        """What the device's own tool reports, and what has to fit."""
        return sum(self.parts().values())

    peak_bytes = device_bytes

    def row(self, index: int) -> "MemoryBreakdown":
        """One plan's bytes, as floats, out of arrays."""
        return MemoryBreakdown(**{
            field.name: float(np.broadcast_to(getattr(self, field.name), np.shape(self.weights_bytes))[index])
            for field in fields(self)
        })  # fmt: skip


def memory(plans: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> MemoryBreakdown:
    """Bytes on the fullest rank of each plan (every pipeline rank that can be the fullest is looked at)."""
    grid = plans if isinstance(plans, PlanGrid) else PlanGrid.of([plans])
    answer = _fullest(grid, job, stack)
    return answer if isinstance(plans, PlanGrid) else answer.row(0)


def stage_memory(plan: Plan, job: TrainingJob, stack: SoftwareStack) -> tuple[MemoryBreakdown, ...]:
    """Bytes on a rank of each pipeline stage of one plan, first stage first; `memory` is the fullest of them."""
    counts = np.stack(rank_counts(job.model, plan), axis=1)
    found = rank_memory(plan, np.arange(plan.pp, dtype=float), list(counts), job, stack)
    return tuple(found.row(rank) for rank in range(plan.pp))


def rank_memory(
    plan: Plan, ranks: Floats, counts: list[Floats], job: TrainingJob, stack: SoftwareStack
) -> MemoryBreakdown:
    """Bytes on pipeline ranks, (ranks,), if they held `counts` layers of each kind (in the order of `sequence`)."""
    grid = PlanGrid.of([plan]).take(np.zeros(len(ranks), dtype=np.int64))
    loads = LayerBytes.of(grid, job, stack).stage(counts)
    return _with_overheads(_held(grid, ranks, loads, job, stack), grid, stack)


def usable_bytes(cluster: Cluster, stack: SoftwareStack) -> float:
    """Bytes of a device that a plan may take. Source: see `SoftwareStack.usable_memory_fraction`."""
    return stack.usable_memory_fraction * cluster.accelerator.memory_bytes


def _fullest(grid: PlanGrid, job: TrainingJob, stack: SoftwareStack) -> MemoryBreakdown:
    rows, column_of = combinations(grid, LOAD_COLUMNS)
    state_rows, state_of = combinations(grid, GRADIENT_COLUMNS)
    of_state, distinct = column_of[state_rows], grid.take(state_rows)
    best = np.zeros((NUM_HELD, len(grid)))
    total = np.full(len(grid), -1.0)
    for ranks, loads in fullest_candidates(grid.take(rows), job, stack):
        states = np.stack(_states(distinct, StageLoads(*np.take(loads, of_state, axis=1)), job, stack))
        work = _work(grid, np.take(ranks, column_of), StageLoads(*loads), column_of, job, stack)
        allocated = np.take(np.add.reduce(states), state_of)
        for part in work:
            allocated += part
        plans = np.flatnonzero(allocated > total)
        every = len(plans) == len(grid)
        state_of_plan = state_of if every else state_of[plans]
        at = slice(None) if every else plans
        total[at] = allocated[at]
        for row, own in zip(best, states, strict=False):
            row[at] = own[state_of_plan]
        for row, own in zip(best[len(states) :], work, strict=True):
            row[at] = own[at]
    return _with_overheads(best, grid, stack)


def _held(grid: PlanGrid, rank: Floats, loads: Floats, job: TrainingJob, stack: SoftwareStack) -> list[Floats]:
    """Allocated bytes by part, the first NUM_HELD of a breakdown, of one pipeline rank of every plan."""
    load = StageLoads(*loads)
    return [*_states(grid, load, job, stack), *_work(grid, rank, load, np.arange(len(grid)), job, stack)]


def _states(grid: PlanGrid, load: StageLoads, job: TrainingJob, stack: SoftwareStack) -> list[Floats]:
    """Bytes of weights, gradients, optimizer states and gathered parameters; they depend on GRADIENT_COLUMNS."""
    return [
        *state_bytes(load.dense_parameters, load.expert_parameters, grid, job, stack),
        gathered_bytes(load.dense_parameters + load.expert_parameters, load.gathered_parameters, grid, job),
    ]


def _work(
    grid: PlanGrid, rank: Floats, load: StageLoads, load_of: Ints, job: TrainingJob, stack: SoftwareStack
) -> list[Floats]:
    """Bytes of activations, logits and workspace of one pipeline rank; plan i has the loads at load_of[i]."""
    num_microbatches = np.maximum(grid.num_microbatches(job.global_batch), 1)
    held = in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, rank)
    microbatches = held / chunks_per_rank(grid.schedule, grid.vp)
    kept = load.kept_bytes[load_of] * microbatches
    away = offloads(grid, Offload.ACTIVATIONS)
    if away.any():
        kept = np.where(away, np.minimum(kept, load.passing_bytes[load_of]), kept)
    logits, working = load.logits_bytes[load_of], load.working_bytes[load_of]
    if stack.keeps_stage_buffers:
        buffers = stage_buffers(grid, rank, microbatches, num_microbatches, job, stack)
        kept = kept + buffers
        logits = logits + output_bytes(load.waiting_bytes[load_of], job, stack) * microbatches * (grid.pp > 1)
    is_reduced = reduces_in_backward(grid)
    if is_reduced.any():
        logits = np.where(is_reduced, load.sharded_logits_bytes[load_of], logits)
        working = np.where(is_reduced, load.sharded_working_bytes[load_of], working)
    logits += load.waiting_bytes[load_of] * waiting_losses(grid.schedule, microbatches)
    return [kept, logits, working + stack.library_workspace_bytes]


def _with_overheads(held: Any, grid: PlanGrid, stack: SoftwareStack) -> MemoryBreakdown:
    """A breakdown of allocated parts, (NUM_HELD, plans), with what lies beyond them."""
    num_communicators = np.add.reduce([(getattr(grid, axis) > 1) * 1.0 for axis in AXES])
    names = [field.name for field in fields(MemoryBreakdown)][:NUM_HELD]
    return MemoryBreakdown(
        **dict(zip(names, held, strict=True)),
        fragmentation_bytes=(stack.reserved_over_allocated - 1.0) * np.add.reduce(held),
        context_bytes=stack.context_bytes + stack.communicator_bytes * num_communicators,
    )
