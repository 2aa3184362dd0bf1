"""Closed forms of one training step: a plan, or a grid of a million, to its breakdown and memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.breakdown import Breakdown
from planner.cost.columns import TRANSFER_COLUMNS
from planner.cost.gradients import gradient_times
from planner.cost.grid import combinations
from planner.cost.memory import MemoryBreakdown, memory
from planner.cost.overlap import added_seconds, exposed_seconds, stack_contention_fraction
from planner.cost.phase import priced_message
from planner.cost.pipeline import pipeline_times
from planner.cost.stages import stage_times
from planner.plan import Plan, PlanGrid
from planner.work.layers import boundary_bytes
from planner.work.ops import Message
from planner.work.schedules import chunk_lead, chunks_per_rank, num_copies, splits_backward
from planner.work.sharding import gathers_in_backward
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan (or each plan of a grid) costs; arrays have one value a plan."""

    plan: Plan | PlanGrid
    breakdown: Breakdown
    memory: MemoryBreakdown

    @property
    def step_seconds(self) -> Any:
        """Seconds of one optimizer step."""
        return self.breakdown.step_seconds

    def row(self, index: int) -> "Estimate":
        """One plan of a grid's estimate."""
        assert isinstance(self.plan, PlanGrid)
        return Estimate(self.plan.plan(index), self.breakdown.row(index), self.memory.row(index))


def estimate(plans: Plan | PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Estimate:
    """Step time and memory of `plans`, by part. Plans are taken as legal (`planner.choose.legality` checks)."""
    grid = plans if isinstance(plans, PlanGrid) else PlanGrid.of([plans])
    answer = Estimate(grid, step_breakdown(grid, job, cluster, stack), memory(grid, job, stack))
    return answer if isinstance(plans, PlanGrid) else answer.row(0)


def step_breakdown(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Breakdown:
    """Where the step's time goes on the slowest rank of each plan.

    The step is the longest path of the schedule without transfers, plus what these add to it, plus what the first
    rank cannot hide of a gradient reduction and a parameter gather once a step, plus its optimizer update
    [Narayanan 2021, arXiv:2104.04473, section 2.2]; idle is what the slowest rank's own work leaves of it. Stages
    that gather parameters for every backward reduce gradients in the queue of these gathers: what both outlast makes
    the last backward of every stage longer, and these follow each other.
    """
    stages = stage_times(grid, job, cluster, stack)
    num_microbatches = grid.num_microbatches(job.global_batch)
    pipeline = pipeline_times(
        grid, num_microbatches, stages, *_transfers(grid, job, cluster, stack), overlaps=stack.pp_overlap
    )
    gradients = gradient_times(grid, job, cluster, stack)
    overlap: dict[str, Any] = {
        "overlaps": stack.dp_overlap,
        "contention_fraction": stack_contention_fraction(stack),
        "num_chunks": chunks_per_rank(grid.schedule, grid.vp),
    }
    buckets, copies = gradients.num_buckets, num_copies(grid.schedule)  # a microbatch passes one copy of the model
    backward = copies * stages.first_backward
    last_pass = np.where(splits_backward(grid.schedule), copies * stages.first_weight, backward)
    reduce = exposed_seconds(
        gradients.reduce,
        last_pass,
        buckets,
        chunk_lead=chunk_lead(grid.schedule, grid.pp, num_microbatches),
        chunk_compute=backward,
        num_slowed=grid.pp,
        **overlap,
    )
    if stack.dp_overlap:
        chunks = overlap["num_chunks"]
        queued = stages.last_added * (1.0 + (grid.pp - 1.0) / chunks) + stages.last_tail
        queues = gathers_in_backward(grid) & (grid.pp > 1) & ~splits_backward(grid.schedule)
        reduce = np.where(queues, queued, reduce)
    collect = exposed_seconds(gradients.gather, copies * stages.first_forward, buckets, chunk_lead=grid.pp, **overlap)
    if job.exchange.synchronization == "asynchronous":
        apart = gradients.reduce + gradients.gather
        reduce, collect = added_seconds(pipeline.whole, apart, stack.dp_contention_fraction), 0.0
    busy = num_microbatches * stages.total_max
    return Breakdown(
        forward_seconds=num_microbatches * stages.parts["forward"],
        backward_seconds=num_microbatches * stages.parts["backward"],
        recompute_seconds=num_microbatches * stages.parts["recompute"],
        optimizer_seconds=gradients.optimizer,
        tp_seconds=num_microbatches * stages.parts["tp"],
        cp_seconds=num_microbatches * stages.parts["cp"],
        ep_seconds=num_microbatches * stages.parts["ep"],
        pp_seconds=pipeline.whole - pipeline.silent,
        dp_seconds=reduce + collect + num_microbatches * stages.parts["dp"],
        host_seconds=num_microbatches * stages.parts["host"],
        idle_seconds=np.where(grid.pp > 1, np.maximum(pipeline.silent - busy, 0.0), 0.0),
    )


def _transfers(grid: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> tuple[Any, Any]:
    """(seconds of one message between neighbouring stages, by combination; the combination of each plan)."""
    rows, inverse = combinations(grid, TRANSFER_COLUMNS)
    distinct = grid.take(rows)
    message = Message("pp", "send_recv", boundary_bytes(job, distinct, stack))
    return np.broadcast_to(priced_message(message, distinct, cluster), len(rows)), inverse
