"""What sharded data parallelism does in a step: over which ranks, and which actions carry its messages.

[Rajbhandari 2020, arXiv:1910.02054, section 5; Zhao 2023, PyTorch FSDP, arXiv:2304.11277, sections 3.2 and 3.3]
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.work.kinds import ENDS


def num_shards(plan: Plan | PlanGrid) -> Any:
    """Ranks that the states of a replicated parameter are divided over; 1 without sharding."""
    return np.where(np.greater_equal(plan.zero_stage, 1), plan.dp * plan.cp // plan.dp_replicate, 1)


def num_expert_shards(plan: Plan | PlanGrid) -> Any:
    """As `num_shards`, for the parameters of experts, which etp and ep spread first."""
    ranks = plan.tp * plan.cp * plan.dp // plan.dp_replicate // (plan.etp * plan.ep)
    return np.where(np.greater_equal(plan.zero_stage, 1), np.maximum(ranks, 1), 1)


def gathers_in_forward(plan: Plan | PlanGrid) -> Any:
    """Whether every forward pass gathers its parameters, layer by layer.

    Under a pipeline parameters that are kept after the forward pass stay for the whole step, as
    torch.distributed.pipelining runs FSDP: then they are gathered once, as by a sharded optimizer.
    """
    return np.equal(plan.zero_stage, 3) & (np.equal(plan.pp, 1) | np.equal(plan.reshard_after_forward, 1))


def gathers_in_backward(plan: Plan | PlanGrid) -> Any:
    """Whether every backward pass gathers its parameters again."""
    return np.equal(plan.zero_stage, 3) & np.equal(plan.reshard_after_forward, 1)


def reduces_in_backward(plan: Plan | PlanGrid) -> Any:
    """Whether every backward pass reduces and shards its gradients, layer by layer, in place of once a step.

    Under a pipeline gradients are summed whole and reduced after the last backward pass.
    """
    return np.greater_equal(plan.zero_stage, 2) & np.equal(plan.pp, 1)


def runs_messages_by_layer(plan: Plan | PlanGrid) -> Any:
    """Whether messages of forward or backward passes come layer by layer."""
    several = np.greater(plan.dp * plan.cp, 1)
    return several & (gathers_in_forward(plan) | gathers_in_backward(plan) | reduces_in_backward(plan))


KEPT_GATHERED = ENDS
"""Kinds of layers that stay gathered from forward to backward, as FSDP's root does."""


class Slot(NamedTuple):
    """The kinds of a layer and its neighbours in a chunk; None beyond its ends.

    While a layer runs forward, what is `after` it is gathered; while it runs backward, what is `before` it is
    gathered and what is `after` it reduced.
    """

    before: str | None
    layer: str
    after: str | None


def layer_order(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Kinds of the layers of a chunk in forward order, kind after kind as `counts` lists them."""
    return tuple(kind for kind, count in counts.items() for _ in range(count))


def layer_slots(counts: Mapping[str, int]) -> dict[Slot, int]:
    """How often each slot occurs in a chunk of `counts` layers of each kind."""
    order = layer_order(counts)
    slots: dict[Slot, int] = {}
    for before, layer, after in zip((None, *order[:-1]), order, (*order[1:], None), strict=True):
        slot = Slot(before, layer, after)
        slots[slot] = slots.get(slot, 0) + 1
    return slots
