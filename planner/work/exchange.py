"""The messages of an optimizer step's exchange: all-reduce or sharded, compressed, local, or through servers.

Sizes are those of `planner.work.ops.Message`; `held` are the parameters one rank holds of a replicated or expert part.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.work.compression import compressed
from planner.work.ops import Message
from planner.work.sharding import num_expert_shards, num_shards, reduces_in_backward
from profiles.exchange import Exchange
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

Counted = list[tuple[Message, Any]]
OUTER_TRAFFIC_BYTES = 28.0
"""Memory traffic of averaging a parameter: its change is read, and anchor, momentum and parameter read and written."""


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters that are exchanged over one group of ranks."""

    axis: str
    """"dp", or "edp" for experts."""
    trained: Any
    """Parameters of it that one rank holds and that have gradients."""
    gathered: Any
    """Parameters of it that are gathered where they are sharded."""
    num_ranks: Any
    """Ranks that hold the same."""
    num_shards: Any


def parts_of(dense: Any, expert: Any, trained_fraction: float, plan: Plan | PlanGrid) -> tuple[Part, Part]:
    """The replicated and the expert parameters of a rank; `trained_fraction` of them is not frozen."""
    gathered = np.where(np.equal(plan.zero_stage, 3), 1.0, trained_fraction)
    ranks = plan.dp * plan.cp
    expert_ranks = np.maximum(plan.tp * plan.cp * plan.dp // (plan.etp * plan.ep), 1)
    return (
        Part("dp", trained_fraction * dense, gathered * dense, ranks, num_shards(plan)),
        Part("edp", trained_fraction * expert, gathered * expert, expert_ranks, num_expert_shards(plan)),
    )


def reductions(part: Part, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Counted:
    """What makes the gradients of `part` those of the whole batch, in the way the job synchronises."""
    present = np.greater(part.trained, 0.0) * 1.0
    way = _SYNCHRONIZATIONS[job.exchange.synchronization]
    return [(message, count * present) for message, count in way(part, plan, job.exchange, stack)]


def _all_reduce(part: Part, plan: Plan | PlanGrid, exchange: Exchange, stack: SoftwareStack) -> Counted:
    """All-reduce, or reduce-scatter and all-reduce of the shards between replica groups.

    [Rajbhandari 2020, arXiv:1910.02054, section 5; Zhao 2023, arXiv:2304.11277, section 3.2.2]
    """
    sent = compressed(exchange, stack)
    gradients = sent.bytes_per_element * part.trained
    if sent.is_sparse:
        return [(Message(part.axis, "all_gather", gradients * part.num_ranks), 1.0)]
    sharded = np.greater_equal(plan.zero_stage, 1) * 1.0
    between = sharded * np.greater(plan.dp_replicate, 1)
    return [
        (Message(part.axis, "all_reduce", gradients), 1.0 - sharded),
        (Message(f"{part.axis}-shard", "reduce_scatter", gradients), sharded),
        (Message("dp-replicate", "all_reduce", gradients / part.num_shards), between),
    ]


def _local(part: Part, plan: Plan | PlanGrid, exchange: Exchange, stack: SoftwareStack) -> Counted:
    """Within a replica group every step; between groups what they changed, compressed, every `sync_interval` steps.

    A step bears its share of the average [Douillard 2023, DiLoCo, arXiv:2311.08105, section 2].
    """
    sent = compressed(exchange, stack)
    inner = stack.gradient_bytes * part.trained
    changed = sent.bytes_per_element * part.trained / part.num_shards
    sharded = np.greater_equal(plan.zero_stage, 1) * 1.0
    share = 1.0 / exchange.sync_interval
    outer = Message("dp-replicate", "all_gather", changed * plan.dp_replicate)
    return [
        (Message(f"{part.axis}-shard", "all_reduce", inner), 1.0 - sharded),
        (Message(f"{part.axis}-shard", "reduce_scatter", inner), sharded),
        (outer if sent.is_sparse else Message("dp-replicate", "all_reduce", changed), share),
    ]


def _push(part: Part, plan: Plan | PlanGrid, exchange: Exchange, stack: SoftwareStack) -> Counted:
    """Gradients to the servers: the port of one carries what n / S workers send [Li 2014, OSDI, section 3]."""
    pushed = compressed(exchange, stack).bytes_per_element * part.trained
    return [(Message(part.axis, "send_recv", _crowd(part, exchange) * pushed), 1.0)]


def _crowd(part: Part, exchange: Exchange) -> Any:
    """Workers that share the port of a server, at least the one."""
    return np.maximum(part.num_ranks / (exchange.num_servers or part.num_ranks), 1.0)


_SYNCHRONIZATIONS: dict[str, Callable[[Part, Plan | PlanGrid, Exchange, SoftwareStack], Counted]] = {
    "all-reduce": _all_reduce, "local": _local, "parameter-server": _push, "asynchronous": _push,
}  # fmt: skip
"""Messages of a reduction by way to synchronise; each counted by how often a step sends it."""


def gathers(part: Part, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Counted:
    """What brings updated parameters to a rank: from their shards, or from servers."""
    exchange = job.exchange
    present = np.greater(part.gathered, 0.0) * 1.0
    width = DTYPE_BYTES["fp8" if exchange.gathers_fp8 else "fp32" if job.precision == "fp32" else "bf16"]
    if exchange.has_servers:
        return [(Message(part.axis, "send_recv", _crowd(part, exchange) * width * part.gathered), present)]
    sharded = present * np.greater_equal(plan.zero_stage, 1)
    return [(Message(f"{part.axis}-shard", "all_gather", width * part.gathered), sharded)]


def gathers_again(part: Part, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Counted:
    """What brings parameters back for a backward pass: from all their shards, or from a second copy nearby."""
    nearby = job.exchange.secondary_shards
    if not nearby:
        return gathers(part, plan, job, stack)
    return [
        (replace(message, axis=f"{part.axis}-shard/{nearby}"), count)
        for message, count in gathers(part, plan, job, stack)
    ]


def extra_update_bytes(part: Part, plan: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Any:
    """Memory traffic beside the optimizer's own: compression of every reduction, and averaging of local training."""
    exchange = job.exchange
    sent = compressed(exchange, stack)
    senders = plan.dp_replicate if exchange.is_local else part.num_ranks
    received = senders * exchange.top_k_fraction * sent.traffic_bytes_per_received
    passes = (sent.traffic_bytes_per_element + received) * part.trained
    if exchange.is_local:
        return (passes + OUTER_TRAFFIC_BYTES * part.trained) / part.num_shards / exchange.sync_interval
    each_microbatch = np.where(reduces_in_backward(plan), plan.num_microbatches(job.global_batch), 1)
    return each_microbatch * passes


def updated_parameters(part: Part, job: TrainingJob) -> Any:
    """Parameters whose optimizer step a rank runs: its shard, or what it serves."""
    if job.exchange.has_servers:
        return part.trained / (job.exchange.num_servers or part.num_ranks)
    return part.trained / part.num_shards
