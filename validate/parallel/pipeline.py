"""Pipeline stages and schedules of torch.distributed.pipelining, timed.

The schedules are torch's own; `tests/test_pipelining_order.py` holds them to the order of the planner's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)

from planner.plan import Plan
from planner.work.schedules import SCHEDULES
from profiles.model import TransformerShape
from profiles.workload import TrainingJob
from validate.measure import Recorder

Loss = Callable[[Tensor, Tensor], Tensor]

ONE_STAGE = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
"""Schedules of one stage a rank, by the planner's names."""
MANY_STAGES = {
    "interleaved": ScheduleInterleaved1F1B,
    "breadth-first": ScheduleLoopedBFS,
    "zb-h1": ScheduleInterleavedZeroBubble,
    "zb-v": ScheduleZBVZeroBubble,
    "dualpipe-v": ScheduleDualPipeV,
}
"""Schedules that take a list of stages; interleaved zero-bubble with one stage a rank is ZB-H1."""


class TimedStage(PipelineStage):
    """A pipeline stage that notes when it computes; what lies between is communication or waiting."""

    recorder: Recorder
    reshards = False
    """FSDP frees the parameters it gathered after every backward pass; left to itself it keeps them for a while."""

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, within a span."""
        with self.recorder.span("forward"):
            return super().forward_one_chunk(*args, **kwargs)

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, within a span."""
        with self.recorder.span("backward"):
            gradients = super().backward_one_chunk(*args, **kwargs)
            for module in self.submod.modules() if self.reshards else ():
                if isinstance(module, FSDPModule):
                    module.reshard()
        return gradients

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, within a span: the second part of a backward pass that is split in two."""
        with self.recorder.span("backward"):
            return super().backward_weight_one_chunk(*args, **kwargs)


def held_chunks(plan: Plan, rank: int) -> list[int]:
    """The chunks of the model on pipeline rank `rank`, as the plan's schedule places them."""
    placed = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
    return [chunk for chunk, holder in enumerate(placed) if holder == rank]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What enters and leaves the stages of one rank for a microbatch, without data."""

    tokens: Tensor
    hidden: Tensor
    logits: Tensor

    @classmethod
    def of(cls, job: TrainingJob, plan: Plan) -> "Shapes":
        """(B, T / cp) tokens, (B, T / cp [/ tp], H) between stages, (B, T / cp, vocabulary / tp) at the end."""
        model = job.model
        assert isinstance(model, TransformerShape)
        length, sequences = job.sequence_length // plan.cp, plan.micro_batch
        part = length // plan.tp if plan.sequence_parallel else length
        options: dict[str, Any] = {
            "dtype": torch.bfloat16 if job.precision == "bf16" else torch.float32,
            "device": "meta",
            "requires_grad": True,
        }
        return cls(
            torch.empty(sequences, length, dtype=torch.long, device="meta"),
            torch.empty(sequences, part, model.hidden_size, **options),
            torch.empty(sequences, length, model.vocabulary_size // plan.tp, **options),
        )


def make_schedule(
    plan: Plan,
    modules: Sequence[nn.Module],
    rank: int,
    group: Any,
    recorder: Recorder,
    shapes: Shapes,
    loss: Loss,
    num_microbatches: int,
) -> Any:
    """The schedule of one pipeline rank over its `modules`, in the order of `held_chunks`.

    `loss` is what each microbatch adds to the loss of the step: gradients are not scaled afterwards. With `shapes`
    given, no stage runs a trial pass to find its own.
    """
    stages, num_chunks = [], plan.pp * plan.vp
    for chunk, module in zip(held_chunks(plan, rank), modules, strict=True):
        inputs = shapes.tokens if chunk == 0 else shapes.hidden
        outputs = shapes.logits if chunk == num_chunks - 1 else shapes.hidden
        stage = TimedStage(module, chunk, num_chunks, recorder.device, (inputs,), outputs, group=group)
        stage.recorder, stage.reshards = recorder, plan.zero_stage == 3 and plan.reshard_after_forward
        stages.append(stage)
    if plan.schedule in ONE_STAGE:
        return ONE_STAGE[plan.schedule](stages[0], num_microbatches, loss_fn=loss, scale_grads=False)
    return MANY_STAGES[plan.schedule](stages, num_microbatches, loss_fn=loss, scale_grads=False)


def scaled(loss: Loss, num_microbatches: int) -> Loss:
    """The share of one microbatch in the mean over all."""

    def share(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(outputs, targets) / num_microbatches

    return share


def total(losses: Sequence[Tensor]) -> Tensor:
    """The loss of the step from those of its microbatches."""
    return torch.stack([loss.detach() for loss in losses]).sum()
