"""Every tensor behind a memory figure: what it is, how many bytes, and which recomputation lets go of it.

The items of a part add up to that part of `planner.cost.memory.stage_memory`, so that every byte can be printed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.cost.memory import stage_memory
from planner.cost.stage_buffers import output_bytes, stage_buffers
from planner.cost.stage_loads import LayerBytes, rank_counts
from planner.cost.states import gathered_bytes, state_bytes
from planner.offload import Offload
from planner.plan import AXES, SCHEDULE_NAMES, Plan, PlanGrid
from planner.work.activations import policy_of, saved_bytes, saved_tensors, transient_bytes
from planner.work.kinds import ENDS
from planner.work.layers import layer_parameters, sequence
from planner.work.schedules import chunks_per_rank, in_flight, waiting_losses
from planner.work.sharding import gathers_in_backward, reduces_in_backward
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

ALWAYS = "every policy"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the inventory of a rank."""

    part: str
    """The part of a `MemoryBreakdown` it belongs to."""
    layer: str
    """Kind of the layer it belongs to, or "rank"."""
    name: str
    each_bytes: float
    num_held: float
    """How many there are: layers, times microbatches in flight for what waits for the backward pass."""
    kept_by: str
    """Recomputation policies under which it is held."""

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return self.each_bytes * self.num_held


def inventory(plan: Plan, job: TrainingJob, stack: SoftwareStack, rank: int) -> tuple[Item, ...]:
    """What a rank of pipeline stage `rank` holds at its peak, in the order of the parts."""
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    counts = dict(zip(kinds, map(float, rank_counts(job.model, plan)[rank]), strict=True))
    held = {kind: count for kind, count in counts.items() if count}
    num_microbatches = np.maximum(plan.num_microbatches(job.global_batch), 1)
    grid = PlanGrid.of([plan])
    chunks = float(in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, rank)[0])
    microbatches = chunks / chunks_per_rank(plan.schedule, plan.vp)
    items = [
        *_states(plan, job, stack, held),
        *_gathered(plan, job, stack, held),
        *_activations(plan, job, stack, held, microbatches),
        *_buffers(grid, rank, job, stack, microbatches),
        *_peak(plan, job, stack, held, microbatches),
        *_overheads(plan, job, stack, rank),
    ]
    return tuple(item for item in items if item.num_bytes > 0.0)


def _states(plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float]) -> Iterator[Item]:
    lines = []
    for kind, count in held.items():
        dense, expert = (float(number) for number in layer_parameters(job.model, kind, plan))
        for name, numbers in (("", (dense, 0.0)), ("expert ", (0.0, expert))):
            lines.append((kind, name, count, state_bytes(*numbers, plan, job, stack)))
    words = ("weights", "gradients", "optimizer states")
    for index, part in enumerate(("weights", "gradients", "optimizer")):
        for kind, name, count, found in lines:
            yield Item(part, kind, f"{name}{words[index]}", float(found[index]), count, ALWAYS)


def _gathered(plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float]) -> Iterator[Item]:
    """Sharded parameters as they are gathered; layers of which only some are at once are one item of the widest."""
    parameters = {kind: float(sum(layer_parameters(job.model, kind, plan))) for kind in held}
    at_once = {kind: count for kind, count in held.items() if kind in ENDS}
    layers = {kind: number for kind, number in parameters.items() if kind not in ENDS}
    if layers and gathers_in_backward(plan):
        widest = max(layers, key=lambda kind: layers[kind])
        at_once[widest] = min(2.0, sum(held[kind] for kind in layers))
    for kind, count in (at_once if gathers_in_backward(plan) else held).items():
        each = gathered_bytes(parameters[kind], parameters[kind], plan, job)
        yield Item("gathered", kind, "gathered weights", float(each), count, ALWAYS)


def _activations(
    plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float], microbatches: float
) -> Iterator[Item]:
    if plan.offload & Offload.ACTIVATIONS:
        passing = {kind: float(saved_bytes(job, kind, plan, stack)) for kind in held}
        whole = sum(passing[kind] * count for kind, count in held.items()) * microbatches
        widest = max(passing, key=lambda kind: passing[kind])
        both = min(2.0, sum(held.values())) * passing[widest]
        yield Item(
            "activations", widest, "activations of two layers, others on the host", min(whole, both), 1.0, ALWAYS
        )
        return
    for kind, count in held.items():
        for tensor in saved_tensors(job, kind, plan, stack):
            kept = float(tensor.kept_bytes(policy_of(job, kind, plan)))
            yield Item("activations", kind, tensor.name, kept, count * microbatches, tensor.kept_by)


def _buffers(grid: PlanGrid, rank: int, job: TrainingJob, stack: SoftwareStack, microbatches: float) -> Iterator[Item]:
    """What a pipeline stage holds of what it receives and hands on."""
    if stack.keeps_stage_buffers:
        num_microbatches = np.maximum(grid.num_microbatches(job.global_batch), 1)
        held = stage_buffers(grid, np.array([float(rank)]), microbatches, num_microbatches, job, stack)
        yield Item("activations", "rank", "buffers between stages", float(held[0]), 1.0, ALWAYS)


def _peak(
    plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float], microbatches: float
) -> Iterator[Item]:
    """What is alive only while the widest layer, or the loss, runs; and the buffers of libraries."""
    loads = LayerBytes.of(PlanGrid.of([plan]), job, stack)
    unreduced = loads.unreduced_bytes if reduces_in_backward(plan) else 0.0
    at = {kind: load[:, 0] for kind, load in zip(loads.kinds, loads.loads, strict=True)}
    gradient = {
        kind: 0.0 if kind in ENDS else unreduced * float(at[kind][0] + at[kind][1]) if unreduced else float(at[kind][6])
        for kind in held
    }
    widest = max(held, key=lambda kind: float(at[kind][4] + at[kind][5] + gradient[kind]))
    waiting = sum(at[kind][3] * count for kind, count in held.items())
    yield Item("logits", widest, "logits and loss", float(at[widest][4]), 1.0, ALWAYS)
    held_losses = float(waiting_losses(SCHEDULE_NAMES.index(plan.schedule), microbatches))
    yield Item("logits", "head", "softmax of waiting microbatches", float(waiting), held_losses, ALWAYS)
    if stack.keeps_stage_buffers and plan.pp > 1:
        outputs = float(output_bytes(waiting, job, stack))
        yield Item("logits", "head", "logits kept as outputs of the stage", outputs, microbatches, ALWAYS)
    for name, num_bytes in _running(plan, job, stack, widest, float(at[widest][5])).items():
        yield Item("workspace", widest, name, num_bytes, 1.0, ALWAYS)
    words = "weight gradient before its reduction" if unreduced else "weight gradient before it is added"
    yield Item("workspace", widest, words, gradient[widest], 1.0, ALWAYS)
    for name in dict.fromkeys(name for parts in loads.dummies for name in parts):
        bytes_of = [float(parts[name][0]) for kind, parts in zip(loads.kinds, loads.dummies, strict=False)
                    if name in parts and kind in held]  # fmt: skip
        yield Item("workspace", "rank", f"dummy weight gradients ({name})", max(bytes_of, default=0.0), 1.0, ALWAYS)
    yield Item("workspace", "rank", "library workspaces", stack.library_workspace_bytes, 1.0, ALWAYS)


def _running(plan: Plan, job: TrainingJob, stack: SoftwareStack, kind: str, working_bytes: float) -> dict[str, float]:
    """What a layer of `kind` adds while it runs, by name."""
    policy = policy_of(job, kind, plan)
    found = {
        f"recomputed {tensor.name}": float(tensor.recomputed_bytes(policy))
        for tensor in saved_tensors(job, kind, plan, stack)
    }
    found["gradients of activations"] = float(transient_bytes(job, kind, plan, stack))
    found["weight gradient of the logits"] = working_bytes - sum(found.values())
    return found


def _overheads(plan: Plan, job: TrainingJob, stack: SoftwareStack, rank: int) -> Iterator[Item]:
    reserved = float(stage_memory(plan, job, stack)[rank].fragmentation_bytes)
    yield Item("fragmentation", "rank", "reserved beyond allocated", reserved, 1.0, ALWAYS)
    yield Item("context", "rank", "driver context and kernels", stack.context_bytes, 1.0, ALWAYS)
    axes = [axis for axis in AXES if getattr(plan, axis) > 1]
    names = f"communicators ({', '.join(axes)})"
    yield Item("context", "rank", names, stack.communicator_bytes, float(len(axes)), ALWAYS)
