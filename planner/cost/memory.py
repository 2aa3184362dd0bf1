"""Bytes on the fullest rank of a plan, by cause, for one plan or a grid of a million.

peak = states + gathered parameters + activations in flight + logits + working buffers, plus what the allocator
reserves beyond it and what lies outside the allocator. States: [Rajbhandari 2020, arXiv:1910.02054, section 3];
activations and schedules: [Korthikanti 2022, arXiv:2205.05198, section 4.2]; the structure and its constants were
checked on the allocator peaks of eight-device runs (MooreThreads/SimuMax@4dcaae513b docs/b200).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.columns import GRADIENT_COLUMNS, LOAD_COLUMNS
from planner.cost.grid import combinations
from planner.cost.instants import (
    Instant,
    gathered_parameters,
    gradient_share,
    happens,
    instants,
    running_bytes,
    waiting_at,
)
from planner.cost.stage_buffers import output_bytes, stage_buffers
from planner.cost.stage_loads import LayerBytes, StageLoads, fullest_candidates, rank_counts
from planner.cost.states import gathered_bytes, state_bytes
from planner.offload import Offload
from planner.plan import AXES, Plan, PlanGrid
from planner.work.host import offloads
from planner.work.schedules import chunks_per_rank, in_flight, waiting_losses
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
    rows, column_of = combinations(grid, LOAD_COLUMNS)
    candidates = fullest_candidates(grid.take(rows), job, stack)
    answer = _fullest(candidates, grid, column_of, combinations(grid, GRADIENT_COLUMNS), job, stack)
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
    every = np.arange(len(grid))
    return _fullest([(ranks, loads)], grid, every, (every, every), job, stack)


def usable_bytes(cluster: Cluster, stack: SoftwareStack) -> float:
    """Bytes of a device that a plan may take. Source: see `SoftwareStack.usable_memory_fraction`."""
    return stack.usable_memory_fraction * cluster.accelerator.memory_bytes


def _fullest(
    candidates: Iterable[tuple[Floats, Floats]], grid: PlanGrid, column_of: Ints, states_of: tuple[Ints, Ints],
    job: TrainingJob, stack: SoftwareStack,
) -> MemoryBreakdown:  # fmt: skip
    """The fullest of the candidate ranks (with their loads, plan i's at column_of[i]) at its fullest instant.

    `states_of`: plans whose states differ, and which of them each plan is like.
    """
    state_rows, state_of = states_of
    of_state, distinct = column_of[state_rows], grid.take(state_rows)
    best = np.zeros((NUM_HELD, len(grid)))
    total = np.full(len(grid), -1.0)
    for ranks, loads in candidates:
        own_loads = StageLoads(*np.take(loads, of_state, axis=1))
        rank, load = np.take(ranks, column_of), StageLoads(*loads)
        for instant in instants(grid, stack):
            states = np.stack(_states(instant, distinct, own_loads, job, stack))
            work = _work(instant, grid, rank, load, column_of, job, stack)
            allocated = np.take(np.add.reduce(states), state_of)
            for part in work:
                allocated += part
            allocated = np.where(happens(instant, grid.num_microbatches(job.global_batch), stack), allocated, -1.0)
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


def _states(instant: Instant, grid: PlanGrid, load: StageLoads, job: TrainingJob, stack: SoftwareStack) -> list[Floats]:
    """Bytes of weights, gradients, optimizer states and gathered parameters; they depend on GRADIENT_COLUMNS."""
    parameters = load.dense_parameters + load.expert_parameters
    weights, gradients, optimizer = state_bytes(load.dense_parameters, load.expert_parameters, grid, job, stack)
    if stack.frees_gradients:
        gradients = gradients * gradient_share(instant, load, grid, job, stack)
    return [weights, gradients, optimizer, gathered_bytes(parameters, gathered_parameters(instant, load), grid, job)]


def _work(
    instant: Instant, grid: PlanGrid, rank: Floats, load: StageLoads, load_of: Ints, job: TrainingJob,
    stack: SoftwareStack,
) -> list[Floats]:  # fmt: skip
    """Bytes of activations, logits and workspace of one pipeline rank; plan i has the loads at load_of[i]."""
    num_microbatches = np.maximum(grid.num_microbatches(job.global_batch), 1)
    held = in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, rank)
    microbatches = waiting_at(instant, held, num_microbatches, grid, stack) / chunks_per_rank(grid.schedule, grid.vp)
    kept = load.kept_bytes[load_of] * microbatches
    away = offloads(grid, Offload.ACTIVATIONS)
    if away.any():
        kept = np.where(away, np.minimum(kept, load.passing_bytes[load_of]), kept)
    logits, working = running_bytes(instant, load, load_of, grid, job)
    if stack.keeps_stage_buffers:
        buffers = stage_buffers(grid, rank, microbatches, num_microbatches, job, stack)
        kept = kept + buffers
        logits = logits + output_bytes(load.waiting_bytes[load_of], job, stack) * microbatches * (grid.pp > 1)
    logits = logits + load.waiting_bytes[load_of] * waiting_losses(grid.schedule, microbatches)
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
