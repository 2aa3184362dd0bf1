"""A pipeline rank's step by the schedules of torch.distributed.pipelining, with neighbours that answer at once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
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
from torch.distributed.pipelining._utils import InferenceMode

from planner.work.schedules import SCHEDULES
from validate.trace.figures import BACKWARD
from validate.trace.model import Chunk
from validate.trace.rank import Rank

SCHEDULE_CLASSES: dict[str, Any] = {
    "gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B,
    "breadth-first": ScheduleLoopedBFS, "zb-h1": ScheduleInterleavedZeroBubble, "zb-v": ScheduleZBVZeroBubble,
    "dualpipe-v": ScheduleDualPipeV,
}  # fmt: skip
"""Our name -> torch's schedule."""


class TracedStage(PipelineStage):
    """A stage that notes which phase it runs in. Shapes are given, so that nobody is asked for them."""

    rank: Rank

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, as a forward pass."""
        with self.rank.forward():
            return super().forward_one_chunk(*args, **kwargs)

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, as a backward pass."""
        with self.rank.tally.during(BACKWARD):
            return super().backward_one_chunk(*args, **kwargs)

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, as a backward pass."""
        with self.rank.tally.during(BACKWARD):
            return super().backward_weight_one_chunk(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The chunks of a pipeline rank under a schedule."""

    rank: Rank
    stages: list[TracedStage]
    schedule: Any
    num_chunks: int

    @classmethod
    def of(cls, rank: Rank, stage: int, chunks: list[Chunk]) -> "Pipeline":
        """Pipeline rank `stage`, ready to run."""
        plan = rank.plan
        placed = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
        numbers = [number for number, at in enumerate(placed) if at == stage]
        stages = [_stage(rank, chunk, number, len(placed)) for number, chunk in zip(numbers, chunks, strict=True)]
        given: Any = stages[0] if plan.schedule in ("gpipe", "1f1b") else stages
        num_microbatches = plan.num_microbatches(rank.job.global_batch)
        schedule = SCHEDULE_CLASSES[plan.schedule](given, num_microbatches, loss_fn=rank.loss)
        schedule._warmup_p2p = lambda *_: None
        return cls(rank, stages, schedule, len(placed))

    def step(self) -> None:
        """All microbatches, forward and backward."""
        num_microbatches = self.rank.plan.num_microbatches(self.rank.job.global_batch)
        numbers = [stage.stage_index for stage in self.stages]
        inputs = (self.rank.tokens(num_microbatches),) if 0 in numbers else ()
        targets = {"target": self.rank.tokens(num_microbatches)} if self.num_chunks - 1 in numbers else {}
        self.schedule.step(*inputs, **targets, return_outputs=False)

    def received(self) -> list[Tensor]:
        """The buffers for inputs, one a microbatch, which live as long as the schedule."""
        return [
            info.buffer
            for stage in self.stages
            for infos in stage.args_recv_info.values()
            for info in infos
            if isinstance(getattr(info, "buffer", None), Tensor)
        ]


def _stage(rank: Rank, chunk: Chunk, number: int, num_chunks: int) -> TracedStage:
    between = (rank.plan.micro_batch, rank.outside_tokens, rank.model.hidden_size)
    given = rank.tokens() if number == 0 else torch.zeros(between, dtype=rank.computed, requires_grad=True)
    if number == num_chunks - 1:
        with torch.no_grad():
            made: Any = chunk(given)
    else:
        made = torch.zeros(between, dtype=rank.computed, requires_grad=True)
    stage = TracedStage(
        chunk, number, num_chunks, torch.device("cpu"), input_args=(given,), output_args=(made,),
        group=rank.world.group("pp"),
    )  # fmt: skip
    stage.rank = rank
    stage._inference_mode = InferenceMode.STATIC
    return stage
