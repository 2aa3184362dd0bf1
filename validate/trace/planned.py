"""What the planner says one pipeline rank computes, sends and keeps in a step: the figures a trace is held to."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from planner.cost.groups import group_of
from planner.cost.inventory import inventory
from planner.cost.memory import stage_memory
from planner.cost.stage_loads import LayerBytes, rank_counts
from planner.plan import Plan, PlanGrid
from planner.work.kinds import EMBEDDING, HEAD
from planner.work.layers import rank_chunks
from planner.work.lower import lower
from planner.work.ops import Attention, Gemm, GroupedGemm, Message, Op
from planner.work.program import Action, Kind, StepProgram, Work, layer_messages
from planner.work.schedules import chunks_per_rank, in_flight
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.trace.figures import ATTENTION, BACKWARD, EXPERTS, FORWARD, MATRIX, RECOMPUTE

Key = tuple[str, str, str]
"""(section, what, which): ("flops", operation, phase), ("messages", axis, collective), ("memory", part, "")."""
Figures = dict[Key, float]

FLOPS, MESSAGES, MEMORY = "flops", "messages", "memory"
_OPERATIONS: dict[type, str] = {Gemm: MATRIX, GroupedGemm: EXPERTS, Attention: ATTENTION}


def planned(plan: Plan, job: TrainingJob, stack: SoftwareStack, stage: int) -> Figures:
    """FLOPs and bytes of one step of a rank of `stage`; what is zero is left out."""
    program = lower(plan, job, stack)
    found: Counter[Key] = Counter()
    for action in program.ranks[stage]:
        for work in _work(program, action):
            for op, count in work.recomputed:
                _add(found, op, count, RECOMPUTE, plan)
            for op, count in work.ops:
                _add(found, op, count, FORWARD if action.kind is Kind.FORWARD else BACKWARD, plan)
    found |= Counter(_memory(plan, job, stack, stage))
    return {key: value for key, value in found.items() if value}


def _work(program: StepProgram, action: Action) -> Iterator[Work]:
    yield program.work.get((action.kind, action.chunk), Work())
    for key in layer_messages(program, action):
        yield program.layer_work[key]


def _add(found: "Counter[Key]", op: Op, count: float, phase: str, plan: Plan) -> None:
    if isinstance(op, Message):
        if group_of(op.axis, plan).size > 1:
            found[MESSAGES, op.axis, op.collective] += float(count * op.num_bytes)  # type: ignore[assignment]
    elif type(op) in _OPERATIONS:
        found[FLOPS, _OPERATIONS[type(op)], phase] += float(count * op.flops)  # type: ignore[assignment]


def _memory(plan: Plan, job: TrainingJob, stack: SoftwareStack, stage: int) -> dict[Key, Any]:
    parts = stage_memory(plan, job, stack)[stage]
    waiting = [item for item in inventory(plan, job, stack, stage) if item.part == "activations"]
    return {
        (MEMORY, "parameters", ""): float(parts.weights_bytes),
        (MEMORY, "gradients", ""): float(parts.gradients_bytes),
        (MEMORY, "optimizer", ""): float(parts.optimizer_bytes),
        (MEMORY, "activations", ""): sum(item.num_bytes for item in waiting),
        (MEMORY, "logits", ""): _waiting_logits(plan, job, stack, stage),
    }


def _waiting_logits(plan: Plan, job: TrainingJob, stack: SoftwareStack, stage: int) -> float:
    """Bytes of the loss that wait for backward passes when most do."""
    loads = LayerBytes.of(PlanGrid.of([plan]), job, stack)
    counts = rank_counts(job.model, plan)[stage]
    each = sum(count * float(load[3][0]) for count, load in zip(counts, loads.loads, strict=True))
    return each * _chunks_in_flight(plan, job, stage) / chunks_per_rank(plan.schedule, plan.vp)


def _chunks_in_flight(plan: Plan, job: TrainingJob, stage: int) -> float:
    grid = PlanGrid.of([plan])
    num_microbatches = grid.num_microbatches(job.global_batch)
    return float(in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, np.array([float(stage)]))[0])


def passed_in_flight(plan: Plan, job: TrainingJob, stage: int) -> tuple[float, float]:
    """(inputs that came from another stage, outputs that went to one) of the microbatches in flight on a rank.

    Chunks that hold the embedding take tokens; the one with the head puts out logits.
    """
    each = _chunks_in_flight(plan, job, stage) / chunks_per_rank(plan.schedule, plan.vp)
    held = rank_chunks(job.model, plan.schedule, plan.pp, plan.vp, plan.layout)[stage]
    return (
        each * sum(EMBEDDING not in counts for counts in held),
        each * sum(HEAD not in counts for counts in held),
    )
