"""Bytes of weights, gradients and optimizer states a parameter takes, and over how many ranks they are shared.

[Rajbhandari 2020, arXiv:1910.02054, sections 3 and 5; Korthikanti 2022, arXiv:2205.05198, figure 1]
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

NUM_MOMENTS = {"adam": 2.0, "sgd": 1.0}
"""Moments an optimizer keeps of every parameter (SGD: its momentum)."""


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes per parameter held for the whole step; the optimizer's are what sharding divides."""

    weights: float
    gradients: float
    optimizer: float

    @classmethod
    def of(cls, job: TrainingJob, stack: SoftwareStack) -> "StateBytes":
        """Mixed precision keeps 16-bit weights and an fp32 master copy beside two fp32 Adam moments.

        18 bytes a parameter with fp32 gradients [Korthikanti 2022, arXiv:2205.05198, figure 1]; SGD keeps one
        moment (momentum); fp8 training keeps bf16 weights.
        """
        moments = NUM_MOMENTS[job.optimizer] * DTYPE_BYTES["fp32"]
        if job.precision == "fp32":
            return cls(DTYPE_BYTES["fp32"], DTYPE_BYTES["fp32"], moments)
        gradients = stack.gradient_bytes + stack.gradient_copy_bytes
        return cls(DTYPE_BYTES["bf16"], gradients, DTYPE_BYTES["fp32"] + moments + stack.optimizer_gradient_bytes)


def state_bytes(
    dense: Any, expert: Any, split: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack
) -> tuple[Any, Any, Any]:
    """(weights, gradients, optimizer states) in bytes that a rank holds of its parameters, for the whole step.

    `dense` parameters are replicated over dp * cp ranks, `expert` ones over what ep leaves of those; a sharded
    optimizer divides its states by as many.
    """
    state = StateBytes.of(job, stack)
    is_sharded = np.greater_equal(split.zero_stage, 1)
    shards = np.where(is_sharded, split.dp * split.cp, 1)
    expert_shards = np.where(is_sharded, np.maximum(split.dp * split.cp / split.ep, 1.0), 1.0)
    held = dense + expert
    return state.weights * held, state.gradients * held, state.optimizer * (dense / shards + expert / expert_shards)
