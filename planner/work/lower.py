"""A plan of a job, lowered to its step program."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from planner.offload import Offload
from planner.plan import Plan, PlanGrid
from planner.work.activations import saved_bytes
from planner.work.exchange import extra_update_bytes, gathers, gathers_again, parts_of, reductions, updated_parameters
from planner.work.host import host_update, offloads
from planner.work.layers import MOE, boundary_bytes, layer_parameters, layer_work, sequence, stage_counts
from planner.work.ops import Elementwise, Message
from planner.work.program import Counted, Kind, StepProgram, Work, build_actions
from planner.work.schedules import SCHEDULES, num_copies
from planner.work.sharding import layer_order, runs_messages_by_layer
from profiles.parameters import trained_fraction
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob


def lower(plan: Plan, job: TrainingJob, stack: SoftwareStack) -> StepProgram:
    """The actions of every pipeline rank under `plan`, with the work behind each.

    Raises ValueError when the batch leaves no microbatch for a rank.
    """
    num_microbatches = plan.num_microbatches(job.global_batch)
    if num_microbatches < 1:
        raise ValueError(
            f"global_batch: {job.global_batch} is too small for dp={plan.dp} x micro_batch={plan.micro_batch}; "
            "at least one microbatch per rank is needed"
        )
    placement = SCHEDULES[plan.schedule].placement
    cut = stage_counts(job.model, placement.num_pieces(plan.pp, plan.vp), plan.layout)
    chunks = [cut[piece] for piece in placement.pieces(plan.pp, plan.vp)]
    distinct = {tuple(counts.items()): counts for counts in chunks}
    alike = {key: _chunk_work(counts, plan, job, stack) for key, counts in distinct.items()}
    work = {
        (kind, chunk): done
        for chunk, counts in enumerate(chunks)
        for kind, done in alike[tuple(counts.items())].items()
    }
    transfer = Work(((Message("pp", "send_recv", float(boundary_bytes(job, plan, stack))), 1.0),))
    for chunk in range(len(chunks) - 1):
        work[Kind.SEND_FORWARD, chunk] = transfer
        work[Kind.SEND_BACKWARD, chunk + 1] = transfer
    kept = {kind: float(saved_bytes(job, kind, plan, stack)) for kind in dict.fromkeys(sequence(job.model))}
    return StepProgram(
        plan=plan,
        num_microbatches=num_microbatches,
        ranks=build_actions(
            plan, num_microbatches, has_experts=MOE in sequence(job.model), has_servers=job.exchange.has_servers
        ),
        is_asynchronous=job.exchange.synchronization == "asynchronous",
        work=work,
        activation_bytes=tuple(sum(kept[kind] * count for kind, count in counts.items()) for counts in chunks),
        num_gradient_buckets=tuple(int(_buckets_of(counts, plan, job, stack)) for counts in chunks),
        **_by_layer(chunks, plan, job, stack),
    )


def _by_layer(
    chunks: Sequence[Mapping[str, int]], plan: Plan, job: TrainingJob, stack: SoftwareStack
) -> dict[str, Any]:
    """The fields of a program whose forwards or backwards carry messages layer by layer."""
    if not runs_messages_by_layer(plan):
        return {}
    works: dict[tuple[Kind, str], Work] = {}
    for kind in dict.fromkeys(kind for counts in chunks for kind in counts):
        layer = layer_work(job, kind, plan, stack)
        works |= {(Kind.FORWARD, kind): layer.forward, (Kind.BACKWARD, kind): layer.backward}
        held = layer_parameters(job.model, kind, plan)
        messages = data_parallel_work(*held, plan, job, stack)
        works |= {(action, kind): Work(_repeat([(work.ops, 1)])) for action, work in messages.items()}
    return {"layers": tuple(layer_order(counts) for counts in chunks), "layer_work": works}


def _chunk_work(counts: Mapping[str, int], plan: Plan, job: TrainingJob, stack: SoftwareStack) -> dict[Kind, Work]:
    """What the actions of a chunk run that holds `counts` layers of each kind; equal chunks share one object."""
    layers = [(layer_work(job, kind, plan, stack), count) for kind, count in counts.items()]
    parameters = [(layer_parameters(job.model, kind, plan), count) for kind, count in counts.items()]
    dense = sum(float(held[0]) * count for held, count in parameters)
    expert = sum(float(held[1]) * count for held, count in parameters)
    passes = {
        Kind.FORWARD: [(layer.forward, count) for layer, count in layers],
        Kind.BACKWARD: [(layer.backward, count) for layer, count in layers],
    }
    if SCHEDULES[plan.schedule].splits_backward:
        passes[Kind.BACKWARD_INPUT] = [(layer.backward_input, count) for layer, count in layers]
        passes[Kind.BACKWARD_WEIGHT] = [(layer.weight_gradient, count) for layer, count in layers]
    shared = data_parallel_work(dense, expert, plan, job, stack)
    return {
        **{
            kind: Work(
                _repeat([(work.ops, count) for work, count in works]),
                _repeat([(work.recomputed, count) for work, count in works]),
            )
            for kind, works in passes.items()
        },
        **{kind: Work(_repeat([(done.ops, 1)])) for kind, done in shared.items() if kind is not Kind.GATHER_AGAIN},
    }


def _buckets_of(counts: Mapping[str, int], plan: Plan, job: TrainingJob, stack: SoftwareStack) -> Any:
    held = sum(count * sum(map(float, layer_parameters(job.model, kind, plan))) for kind, count in counts.items())
    return num_buckets(sum(counts.values()), held, plan, job, stack)


def num_buckets(
    num_layers: Any, num_parameters: Any, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack
) -> Any:
    """Buckets that the gradients of so many layers and parameters are reduced in: one a layer, or of the size asked
    for where parameters are whole on every rank."""
    by_layer = np.maximum(num_layers, 1)
    if not job.exchange.bucket_bytes:
        return by_layer
    gradients = stack.gradient_bytes * trained_fraction(job.model, job.lora_rank) * num_parameters
    return np.where(np.less_equal(plan.zero_stage, 1), _shares(gradients, job.exchange.bucket_bytes), by_layer)


def _shares(num_bytes: Any, most_bytes: float) -> Any:
    """Equal parts of at most so many bytes."""
    return np.maximum(np.ceil(num_bytes / most_bytes), 1.0)


def _in_buckets(messages: list[tuple[Message, Any]], plan: Plan | PlanGrid, bucket_bytes: float) -> Counted:
    """Reductions cut into buckets, each a message with its own latency; parameters sharded by layer are left alone."""
    if not bucket_bytes:
        return tuple(messages)
    found = []
    for message, count in messages:
        parts = np.where(np.less_equal(plan.zero_stage, 1), _shares(message.num_bytes, bucket_bytes), 1.0)
        found.append((replace(message, num_bytes=message.num_bytes / parts), count * parts))
    return tuple(found)


def _repeat(groups: list[tuple[Counted, int]]) -> Counted:
    """Concatenate the operations of layers, dropping those that this plan runs no times."""
    return tuple((op, float(count * repeats)) for ops, repeats in groups for op, count in ops if np.any(count))


def data_parallel_work(
    dense: Any, expert: Any, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack
) -> dict[Kind, Work]:
    """Gradient reduction, optimizer step and parameter gather of `dense` and `expert` parameters on one rank.

    A sharded optimizer reduces by reduce-scatter, updates its share and gathers the parameters; a replicated
    one all-reduces [Rajbhandari 2020, arXiv:1910.02054, section 5], unless the job's exchange asks for something
    else (`planner.work.exchange`). Where a pipeline holds two copies of the model, the ranks that mirror each other
    sum theirs besides. Frozen parameters have neither gradients nor updates.
    """
    mirrored = np.greater(num_copies(plan.schedule), 1) * 1.0
    reduced: list[tuple[Message, Any]] = []
    gathered: list[tuple[Message, Any]] = []
    again: list[tuple[Message, Any]] = []
    updated: Any = 0.0
    extra_bytes: Any = 0.0
    for part in parts_of(dense, expert, trained_fraction(job.model, job.lora_rank), plan):
        present = np.greater(part.trained, 0.0) * 1.0
        reduced += reductions(part, plan, job, stack)
        reduced.append((Message("pp", "all_reduce", stack.gradient_bytes * part.trained), present * mirrored))
        gathered += gathers(part, plan, job, stack)
        again += gathers_again(part, plan, job, stack)
        updated = updated + updated_parameters(part, job)
        extra_bytes = extra_bytes + extra_update_bytes(part, plan, job, stack)
    update = Elementwise(_update_traffic(job, stack) * updated + extra_bytes, in_place=True)
    return {
        Kind.REDUCE_GRADIENTS: Work(_in_buckets(reduced, plan, job.exchange.bucket_bytes)),
        Kind.OPTIMIZER: Work(_update(update, updated, plan, job, stack)),
        Kind.GATHER_PARAMETERS: Work(tuple(gathered)),
        Kind.GATHER_AGAIN: Work(tuple(again)),
    }


def _update(
    update: Elementwise, updated: Any, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack
) -> Counted:
    """The update on the device, or on the host where the optimizer's states live there."""
    if not np.any(offloads(plan, Offload.OPTIMIZER)):
        return ((update, 1.0),)
    return ((update, 1.0 - offloads(plan, Offload.OPTIMIZER)), *host_update(updated, plan, job, stack))


def _update_traffic(job: TrainingJob, stack: SoftwareStack) -> float:
    """Memory traffic of the update per parameter: moments that are not kept, or are narrower, are less to move."""
    num_moments = {"adam": 2.0, "sgd": 1.0}[job.optimizer]
    spared = 2.0 * DTYPE_BYTES["fp32"] - num_moments * stack.moment_bytes
    return stack.optimizer_traffic_bytes_per_parameter - 2.0 * spared
