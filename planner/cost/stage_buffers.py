"""What a pipeline stage holds of what it receives and hands on, where the framework keeps both.

torch.distributed.pipelining receives every microbatch into a buffer of its own, forward and backward, and keeps the
output of a stage until its backward pass (Source: pytorch/pytorch torch/distributed/pipelining/stage.py).
"""

from typing import Any

import numpy as np

from planner.cost.stage_loads import compute_bytes
from planner.plan import PlanGrid
from planner.work.activations import FLOAT_BYTES
from planner.work.layers import boundary_bytes
from planner.work.schedules import chunks_per_rank, rank_of_head
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


def stage_buffers(
    plans: PlanGrid, rank: Any, held: Any, num_microbatches: Any, job: TrainingJob, stack: SoftwareStack
) -> Any:
    """Bytes on pipeline `rank` beside its activations, of which it holds `held` microbatches, (plans,).

    Inputs of the microbatches held are among the activations; buffers for the others' inputs and for all gradients of
    outputs are not, nor are the outputs held.
    """
    chunks = chunks_per_rank(plans.schedule, plans.vp)
    receiving = chunks - np.equal(rank, 0.0)
    sending = chunks - np.equal(rank, rank_of_head(plans.schedule, plans.pp))
    waiting = np.maximum(num_microbatches - held, 0.0)
    count = receiving * waiting + sending * (num_microbatches + held)
    return np.where(plans.pp > 1, count * boundary_bytes(job, plans, stack), 0.0)


def output_bytes(waiting_bytes: Any, job: TrainingJob, stack: SoftwareStack) -> Any:
    """Bytes of a microbatch's logits, the output of the stage with the head, whose loss waits in `waiting_bytes`."""
    return waiting_bytes * compute_bytes(job) / min(stack.loss_bytes_per_logit, FLOAT_BYTES)


__all__ = ["output_bytes", "stage_buffers"]
