"""Every tensor behind a memory figure: what it is, how many bytes, and which recomputation lets go of it.

The items of a part add up to that part of `planner.cost.memory.stage_memory`, so that every byte can be printed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.cost.instants import (
    LAYER,
    LOSS,
    NUM_GATHERED,
    Instant,
    gives_gradients_back,
    happens,
    single_instants,
    waiting_at,
)
from planner.cost.memory import stage_memory
from planner.cost.stage_buffers import output_bytes, stage_buffers
from planner.cost.stage_loads import Floats, LayerBytes, rank_counts
from planner.cost.states import gathered_bytes, state_bytes
from planner.offload import Offload
from planner.plan import AXES, SCHEDULE_NAMES, Plan, PlanGrid
from planner.work.activations import policy_of, saved_bytes, saved_tensors, transient_bytes
from planner.work.kinds import ENDS, HEAD
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
    """What a rank of pipeline stage `rank` holds at its fullest instant, in the order of the parts."""
    kinds = tuple(dict.fromkeys(sequence(job.model)))
    counts = dict(zip(kinds, map(float, rank_counts(job.model, plan)[rank]), strict=True))
    held = {kind: count for kind, count in counts.items() if count}
    num_microbatches = max(plan.num_microbatches(job.global_batch), 1)
    found = [
        _items(instant, plan, job, stack, rank, held)
        for instant in single_instants(stack)
        if happens(instant, num_microbatches, stack)
    ]
    return max(found, key=lambda items: sum(item.num_bytes for item in items))


def _items(
    instant: Instant, plan: Plan, job: TrainingJob, stack: SoftwareStack, rank: int, held: dict[str, float]
) -> tuple[Item, ...]:
    """What the rank holds at an instant of one place."""
    grid = PlanGrid.of([plan])
    num_microbatches = np.maximum(plan.num_microbatches(job.global_batch), 1)
    chunks = in_flight(grid.schedule, grid.pp, num_microbatches, grid.vp, rank)
    waiting = float(waiting_at(instant, chunks, num_microbatches, grid, stack)[0])
    microbatches = waiting / chunks_per_rank(plan.schedule, plan.vp)
    loads = LayerBytes.of(grid, job, stack)
    items = [
        *_states(instant, plan, job, stack, held),
        *_gathered(instant, plan, job, held),
        *_activations(plan, job, stack, held, microbatches),
        *_buffers(grid, rank, job, stack, microbatches),
        *_running(instant, plan, job, stack, held, loads),
        *_outputs(plan, job, stack, held, microbatches, loads),
        *_libraries(stack, held, loads),
        *_overheads(plan, job, stack, rank),
    ]
    return tuple(item for item in items if item.num_bytes > 0.0)


def _states(
    instant: Instant, plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float]
) -> Iterator[Item]:
    lines = []
    is_missing = instant.is_first and bool(gives_gradients_back(plan, job, stack))
    is_head_there = instant.places == (LAYER,) and not reduces_in_backward(plan)
    for kind, count in held.items():
        dense, expert = (float(number) for number in layer_parameters(job.model, kind, plan))
        present = not is_missing or (kind == HEAD and is_head_there)
        for name, numbers in (("", (dense, 0.0)), ("expert ", (0.0, expert))):
            weights, gradients, optimizer = state_bytes(*numbers, plan, job, stack)
            lines.append((kind, name, count, (weights, gradients if present else 0.0, optimizer)))
    words = ("weights", "gradients", "optimizer states")
    for index, part in enumerate(("weights", "gradients", "optimizer")):
        for kind, name, count, found in lines:
            yield Item(part, kind, f"{name}{words[index]}", float(found[index]), count, ALWAYS)


def _gathered(instant: Instant, plan: Plan, job: TrainingJob, held: dict[str, float]) -> Iterator[Item]:
    """Sharded parameters as they are gathered; layers of which only some are at once are one item of the widest."""
    parameters = {kind: float(sum(layer_parameters(job.model, kind, plan))) for kind in held}
    at_once = {kind: count for kind, count in held.items() if kind in ENDS}
    layers = {kind: number for kind, number in parameters.items() if kind not in ENDS}
    if layers and gathers_in_backward(plan):
        widest = max(layers, key=lambda kind: layers[kind])
        at_once[widest] = min(NUM_GATHERED[instant.places[-1]], sum(held[kind] for kind in layers))
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


def _running(
    instant: Instant, plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float], loads: LayerBytes
) -> Iterator[Item]:
    """What is alive only while the loss, or the widest layer, runs."""
    at = {kind: load[:, 0] for kind, load in zip(loads.kinds, loads.loads, strict=True) if kind in held}
    if LAYER in instant.places:
        sent = loads.sent_bytes * reduces_in_backward(plan)
        of_kind = {kind: _of_layer(load, loads, sent) for kind, load in at.items() if kind not in ENDS}
        if of_kind and sent and HEAD in at and plan.zero_stage == 3:
            head = loads.gradient_bytes * float(at[HEAD][0] + at[HEAD][1])
            yield Item("workspace", HEAD, "weight gradient until its root reduces it", head, 1.0, ALWAYS)
    else:
        row = 4 if LOSS in instant.places else 6
        of_kind = {kind: (load[row], load[row + 1], 0.0) for kind, load in at.items() if kind in ENDS}
    if not of_kind:
        return
    widest = max(of_kind, key=lambda kind: sum(of_kind[kind]))
    logits, working, gradient = map(float, of_kind[widest])
    yield Item("logits", widest, "logits and loss", logits, 1.0, ALWAYS)
    for name, num_bytes in _working(plan, job, stack, widest, working).items():
        yield Item("workspace", widest, name, num_bytes, 1.0, ALWAYS)
    yield Item("workspace", widest, "weight gradients before they are added or reduced", gradient, 1.0, ALWAYS)


def _of_layer(load: Floats, loads: LayerBytes, sent_bytes: float) -> tuple[float, float, float]:
    """(logits, working, gradient) bytes of a layer, as `LayerBytes` has them: while it runs, or when it is reduced."""
    parameters, working, matrix = float(load[0] + load[1]), float(load[5]), float(load[8])
    if not sent_bytes:
        return 0.0, working, matrix
    whole, sent = loads.gradient_bytes * parameters, sent_bytes * parameters - float(load[2])
    running = (0.0, working, (matrix or whole) + max(sent, 0.0))
    return max(running, (0.0, 0.0, whole + sent), key=sum)


def _working(plan: Plan, job: TrainingJob, stack: SoftwareStack, kind: str, working_bytes: float) -> dict[str, float]:
    """What a layer of `kind` adds while it runs, by name; none where it does not run yet."""
    policy = policy_of(job, kind, plan)
    found = {
        f"recomputed {tensor.name}": float(tensor.recomputed_bytes(policy))
        for tensor in saved_tensors(job, kind, plan, stack)
    }
    found["gradients of activations"] = float(transient_bytes(job, kind, plan, stack))
    found["weight gradient of the logits"] = working_bytes - sum(found.values())
    return found if working_bytes else {}


def _outputs(
    plan: Plan, job: TrainingJob, stack: SoftwareStack, held: dict[str, float], microbatches: float, loads: LayerBytes
) -> Iterator[Item]:
    """What losses and logits of the microbatches that wait hold."""
    waiting = sum(float(load[3, 0]) * held.get(kind, 0.0) for kind, load in zip(loads.kinds, loads.loads, strict=True))
    held_losses = float(waiting_losses(SCHEDULE_NAMES.index(plan.schedule), microbatches))
    yield Item("logits", "head", "softmax of waiting microbatches", waiting, held_losses, ALWAYS)
    if stack.keeps_stage_buffers and plan.pp > 1:
        outputs = float(output_bytes(waiting, job, stack))
        yield Item("logits", "head", "logits kept as outputs of the stage", outputs, microbatches, ALWAYS)


def _libraries(stack: SoftwareStack, held: dict[str, float], loads: LayerBytes) -> Iterator[Item]:
    """Buffers of libraries, and the weight gradients of which Transformer Engine keeps one a shape."""
    for name in dict.fromkeys(name for parts in loads.dummies for name in parts):
        bytes_of = [float(parts[name][0]) for kind, parts in zip(loads.kinds, loads.dummies, strict=False)
                    if name in parts and kind in held]  # fmt: skip
        yield Item("workspace", "rank", f"dummy weight gradients ({name})", max(bytes_of, default=0.0), 1.0, ALWAYS)
    yield Item("workspace", "rank", "library workspaces", stack.library_workspace_bytes, 1.0, ALWAYS)


def _overheads(plan: Plan, job: TrainingJob, stack: SoftwareStack, rank: int) -> Iterator[Item]:
    reserved = float(stage_memory(plan, job, stack)[rank].fragmentation_bytes)
    yield Item("fragmentation", "rank", "reserved beyond allocated", reserved, 1.0, ALWAYS)
    yield Item("context", "rank", "driver context and kernels", stack.context_bytes, 1.0, ALWAYS)
    axes = [axis for axis in AXES if getattr(plan, axis) > 1]
    names = f"communicators ({', '.join(axes)})"
    yield Item("context", "rank", names, stack.communicator_bytes, float(len(axes)), ALWAYS)
