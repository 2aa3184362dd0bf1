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
from planner.work.actions import FREES
from planner.work.kinds import EMBEDDING, HEAD
from planner.work.layers import stage_counts
from planner.work.lower import lower
from planner.work.ops import Attention, Gemm, GroupedGemm, Message, Op
from planner.work.program import Action, Kind, StepProgram, Work, layer_messages
from planner.work.schedules import SCHEDULES, chunks_per_rank, in_flight
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
    items = [item for item in inventory(plan, job, stack, stage) if item.part == "activations"]
    waiting = [item for item in items if item.layer != "rank"]  # buffers between stages are traced apart
    return {
        (MEMORY, "parameters", ""): float(parts.weights_bytes),
        (MEMORY, "gradients", ""): float(parts.gradients_bytes),
        (MEMORY, "optimizer", ""): float(parts.optimizer_bytes),
        (MEMORY, "activations", ""): sum(item.num_bytes for item in waiting),
        (MEMORY, "logits", ""): waiting_logits(plan, job, stack, stage) * _mean_in_flight(plan, job, stage),
    }


def _mean_in_flight(plan: Plan, job: TrainingJob, stage: int) -> float:
    """Microbatches between their passes on a rank, in the mean over its chunks."""
    grid = PlanGrid.of([plan])
    num_microbatches = grid.num_microbatches(job.global_batch)
    chunks = in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, np.array([float(stage)]))
    return float(chunks[0]) / chunks_per_rank(plan.schedule, plan.vp)


def waiting_logits(plan: Plan, job: TrainingJob, stack: SoftwareStack, stage: int) -> float:
    """Bytes of the loss of one microbatch that wait for its backward pass, on the stage with the head."""
    loads = LayerBytes.of(PlanGrid.of([plan]), job, stack)
    counts = rank_counts(job.model, plan)[stage]
    return sum(float(count) * float(load[3][0]) for count, load in zip(counts, loads.loads, strict=True))


def held_at_peak(program: StepProgram, job: TrainingJob, stage: int, boundary_bytes: float) -> dict[int, int]:
    """Microbatches that each chunk of a pipeline rank holds between its passes when their bytes are most.

    Torch keeps a chunk's output with them, and its input in a buffer of its own.
    """
    layers = chunk_layers(program, job)
    each = [
        kept + boundary_bytes * ((HEAD not in counts) - (EMBEDDING not in counts))
        for kept, counts in zip(program.activation_bytes, layers, strict=True)
    ]
    held = {action.chunk: 0 for action in program.ranks[stage]}
    best, most = dict(held), 0.0
    for action in program.ranks[stage]:
        if action.kind is Kind.FORWARD:
            held[action.chunk] += 1
            size = sum(count * each[chunk] for chunk, count in held.items())
            if size > most:
                best, most = dict(held), size
        elif action.kind in FREES:
            held[action.chunk] -= 1
    return best


def chunk_layers(program: StepProgram, job: TrainingJob) -> list[dict[str, int]]:
    """Layers of each kind in every chunk of a program."""
    plan = program.plan
    placement = SCHEDULES[plan.schedule].placement
    cut = stage_counts(job.model, placement.num_pieces(plan.pp, plan.vp), plan.layout)
    return [cut[piece] for piece in placement.pieces(plan.pp, plan.vp)]
