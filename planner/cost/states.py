"""Bytes of weights, gradients and optimizer states a parameter takes, and over how many ranks they are shared.

[Rajbhandari 2020, arXiv:1910.02054, sections 3 and 5; Korthikanti 2022, arXiv:2205.05198, figure 1]
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.stage_loads import compute_bytes
from planner.offload import Offload
from planner.plan import Plan, PlanGrid
from planner.work.host import offloads
from planner.work.sharding import gathers_in_backward, num_expert_shards, num_shards, reduces_in_backward
from profiles.parameters import trained_fraction
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob

NUM_MOMENTS = {"adam": 2.0, "sgd": 1.0}
"""Moments an optimizer keeps of every parameter (SGD: its momentum)."""


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes per parameter held for the whole step; the optimizer's are what sharding divides."""

    weights: Any
    gradients: Any
    optimizer: Any

    @classmethod
    def of(cls, job: TrainingJob, stack: SoftwareStack) -> "StateBytes":
        """Mixed precision keeps 16-bit weights and an fp32 master copy beside two Adam moments, in fp32 as a rule.

        18 bytes a parameter with fp32 gradients [Korthikanti 2022, arXiv:2205.05198, figure 1]; SGD keeps one
        moment (momentum); fp8 training keeps bf16 weights. A stack that stores fp32 parameters and casts them
        where they are used keeps no second copy.
        """
        moments = NUM_MOMENTS[job.optimizer] * stack.moment_bytes
        if job.precision == "fp32" or stack.fp32_parameters:
            return cls.fp32(job, stack)
        gradients = stack.gradient_bytes + stack.gradient_copy_bytes
        return cls(DTYPE_BYTES["bf16"], gradients, DTYPE_BYTES["fp32"] + moments + stack.optimizer_gradient_bytes)

    @classmethod
    def fp32(cls, job: TrainingJob, stack: SoftwareStack) -> "StateBytes":
        """Parameters and gradients in fp32, beside the optimizer's moments."""
        moments = NUM_MOMENTS[job.optimizer] * stack.moment_bytes
        return cls(DTYPE_BYTES["fp32"], DTYPE_BYTES["fp32"], moments)

    def where(self, chosen: Any, other: "StateBytes") -> "StateBytes":
        """These where `chosen` holds, else `other`."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return StateBytes(*(np.where(chosen, mine, its) for mine, its in pairs))


OUTER_STATE_BYTES = 8.0
"""Per parameter of local training: what it was at the last average, and the outer momentum, in fp32
[Douillard 2023, DiLoCo, arXiv:2311.08105, algorithm 1]."""


def state_bytes(
    dense: Any, expert: Any, split: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack
) -> tuple[Any, Any, Any]:
    """(weights, gradients, optimizer states) in bytes that a rank holds of its parameters, for the whole step.

    `dense` parameters are replicated over dp * cp ranks, `expert` ones over what etp * ep leave of all; what the
    plan shards is divided by its shard group of them (`planner.work.sharding`). Compression that rounds keeps what
    was lost beside the gradient. What lives on the host takes none.
    """
    state = StateBytes.of(job, stack)
    if stack.fp32_shards:
        state = StateBytes.fp32(job, stack).where(np.equal(split.zero_stage, 3), state)
    shared = dense / num_shards(split) + expert / num_expert_shards(split)
    held = dense + expert
    there = offloads(split, Offload.OPTIMIZER)
    gradients = np.where(reduces_in_backward(split), np.where(there, 0.0, shared), held)
    kept_shards = np.where(offloads(split, Offload.PARAMETERS), 0.0, shared)
    weights = np.where(np.equal(split.zero_stage, 3), kept_shards, held)
    trained = trained_fraction(job.model, job.lora_rank)
    outer = OUTER_STATE_BYTES * job.exchange.is_local
    lost = DTYPE_BYTES["fp32"] * (job.exchange.gradient_compression in ("int8", "top-k"))
    optimizer = (state.optimizer + outer) * trained * np.where(there, 0.0, shared) + lost * trained * held
    nearby = np.minimum(num_shards(split), job.exchange.secondary_shards or np.inf)
    second = compute_bytes(job) * held / nearby * (job.exchange.secondary_shards > 0)
    return state.weights * weights + second, state.gradients * trained * gradients, optimizer


def gathered_bytes(held: Any, at_once: Any, split: Plan | PlanGrid, job: TrainingJob) -> Any:
    """Bytes of parameters that a rank has gathered from their shards, of `held` parameters in all.

    Those in use `at_once` if the forward pass frees them again, else all of them; none where they are not sharded.
    [Zhao 2023, PyTorch FSDP, arXiv:2304.11277, section 3.2.1]
    """
    gathered = np.where(gathers_in_backward(split), at_once, held)
    width = DTYPE_BYTES["fp8"] if job.exchange.gathers_fp8 else compute_bytes(job)
    return width * np.where(np.equal(split.zero_stage, 3), gathered, 0.0)
