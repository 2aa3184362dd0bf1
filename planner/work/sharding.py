"""What sharded data parallelism does in a step: over which ranks, and which actions carry its messages.

[Rajbhandari 2020, arXiv:1910.02054, section 5; Zhao 2023, PyTorch FSDP, arXiv:2304.11277, sections 3.2 and 3.3]
"""

from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid


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
