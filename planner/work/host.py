"""What offloading makes a rank copy to and from the host, and the host compute.

[Ren 2021, ZeRO-Offload, arXiv:2101.06840, section 4; Rajbhandari 2021, ZeRO-Infinity, arXiv:2104.07857, section 5]
"""

from typing import Any

import numpy as np

from planner.offload import Offload
from planner.plan import Plan, PlanGrid
from planner.work.activations import saved_bytes
from planner.work.ops import HostCopy, HostUpdate
from planner.work.program import Counted
from planner.work.sharding import gathers_in_backward, gathers_in_forward, num_expert_shards, num_shards
from profiles.software import SoftwareStack
from profiles.units import DTYPE_BYTES
from profiles.workload import TrainingJob


def offloads(split: Plan | PlanGrid, part: Offload) -> Any:
    """Whether `part` lives on the host."""
    return np.not_equal(np.bitwise_and(split.offload, int(part)), 0)


def layer_copies(
    job: TrainingJob, kind: str, parameters: tuple[Any, Any], split: Plan | PlanGrid, stack: SoftwareStack
) -> tuple[Counted, Counted]:
    """(forward, backward) copies of a layer, beside its compute: kept activations out and in, and shards in."""
    forward: Counted = ()
    backward: Counted = ()
    if np.any(offloads(split, Offload.ACTIVATIONS)):
        moved = HostCopy(saved_bytes(job, kind, split, stack), stack.host_copy_efficiency_fraction)
        both = ((moved, 1.0 * offloads(split, Offload.ACTIVATIONS)),)
        forward, backward = (*forward, *both), (*backward, *both)
    if np.any(offloads(split, Offload.PARAMETERS)):
        width = DTYPE_BYTES["fp32" if job.precision == "fp32" else "bf16"]
        shard = width * (parameters[0] / num_shards(split) + parameters[1] / num_expert_shards(split))
        fetched = HostCopy(shard, stack.host_copy_efficiency_fraction)
        there = offloads(split, Offload.PARAMETERS)
        forward = (*forward, (fetched, 1.0 * (there & gathers_in_forward(split))))
        backward = (*backward, (fetched, 1.0 * (there & gathers_in_backward(split))))
    return forward, backward


def host_update(updated: Any, split: Plan | PlanGrid, job: TrainingJob, stack: SoftwareStack) -> Counted:
    """The optimizer's step on the host: gradients there, the update by its cores, and parameters back.

    With nothing beside it: the first gradient is complete when the backward pass ends.
    """
    width = DTYPE_BYTES["fp32" if job.precision == "fp32" else "bf16"]
    count = 1.0 * offloads(split, Offload.OPTIMIZER)
    copies = HostCopy(2.0 * width * updated, stack.host_copy_efficiency_fraction, is_beside=False)
    return ((copies, count), (HostUpdate(updated, stack.host_update_seconds_per_parameter), count))
