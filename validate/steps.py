"""How one rank runs an optimizer step: all layers on one rank, or stages of a pipeline; then reduce and update."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from planner.work.layers import DENSE, MOE, stage_counts
from profiles.model import TransformerShape
from profiles.workload import TrainingJob
from validate.measure import Recorder
from validate.models import Stage, build_stage, is_expert, token_loss
from validate.parallel.context import context_parallel, token_positions
from validate.parallel.experts import expert_parallel
from validate.parallel.fsdp import FullyShard
from validate.parallel.groups import Groups
from validate.parallel.pipeline import Shapes, held_chunks, make_schedule, scaled, total
from validate.parallel.recomputation import recompute
from validate.parallel.replicas import Alone, Bucketed, Replicas, flat
from validate.parallel.tensor import ShardedLoss, TensorAxis, tensor_parallel


class Trainer(Protocol):
    """One rank's part of an optimizer step."""

    recorder: Recorder
    num_parameters: int

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Train on this rank's sequences; the mean loss over them, or None where no head is."""


def make_trainer(job: TrainingJob, groups: Groups, seed: int) -> Trainer:
    """The rank's share of the model under the plan of `groups`, ready to train."""
    return (PipelineTrainer if groups.plan.pp > 1 else LocalTrainer)(job, groups, seed)


class LocalTrainer:
    """All layers on every rank."""

    def __init__(self, job: TrainingJob, groups: Groups, seed: int) -> None:
        self.recorder, self.plan = groups.recorder, groups.plan
        self.loss = _loss(groups)
        stages = _stages(job, groups, seed)
        self.num_parameters = _count(stages)
        self.replicas = make_replicas(job, stages, groups)
        (self.model,) = self.replicas.modules

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Run the microbatches one after the other, then reduce and update."""
        num_microbatches = len(inputs) // self.plan.micro_batch
        chunks = list(zip(inputs.chunk(num_microbatches), targets.chunk(num_microbatches), strict=True))
        losses = []
        for index, (tokens, expected) in enumerate(chunks):
            with self.replicas.microbatch(index == num_microbatches - 1):
                with self.recorder.span("forward"):
                    loss = self.loss(self.model(tokens), expected) / num_microbatches
                start = self.recorder.mark()
                loss.backward()
                self._record_backward(start)
            losses.append(loss.detach())
        self.replicas.finish()
        return total(losses)

    def _record_backward(self, start: Any) -> None:
        """What follows the last gradient is waiting for the reduction: exposed dp communication."""
        end = self.recorder.mark()
        last = self.replicas.last_gradient
        self.recorder.add("backward", start, end if last is None else last)
        if last is not None:
            self.recorder.add("dp", last, end)


class PipelineTrainer:
    """One or more stages of a pipeline, run by a torch.distributed.pipelining schedule."""

    def __init__(self, job: TrainingJob, groups: Groups, seed: int) -> None:
        self.recorder = groups.recorder
        plan, pipeline = groups.plan, groups["pp"]
        stages = _stages(job, groups, seed)
        self.num_parameters = _count(stages)
        self.replicas = make_replicas(job, stages, groups)
        num_microbatches = plan.num_microbatches(job.global_batch)
        self.schedule = make_schedule(
            plan, self.replicas.modules, pipeline.index, pipeline.group, self.recorder, Shapes.of(job, plan),
            scaled(_loss(groups), num_microbatches), num_microbatches,
        )  # fmt: skip
        chunks = held_chunks(plan, pipeline.index)
        self.is_first, self.is_last = 0 in chunks, plan.pp * plan.vp - 1 in chunks

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Run the schedule over the microbatches, reduce over dp, update."""
        losses: list[Tensor] = []
        arguments = (inputs,) if self.is_first else ()
        if self.is_last:
            self.schedule.step(*arguments, target=targets, losses=losses, return_outputs=False)
        else:
            self.schedule.step(*arguments, return_outputs=False)
        self.replicas.finish()
        return total(losses) if losses else None


def make_replicas(job: TrainingJob, stages: list[Stage], groups: Groups) -> Replicas:
    """The way in which the ranks that share the parameters of `stages` keep them alike."""
    plan = groups.plan
    is_bf16 = job.precision == "bf16"
    has_experts = any(is_expert(name) for stage in stages for name, _ in stage.named_parameters())
    is_shared = groups["dp"].size > 1 or (has_experts and groups["edp"].size > 1)
    if plan.zero_stage == 3 and groups["dp-shard"].size > 1:
        return FullyShard(stages, groups, is_bf16=is_bf16)
    if is_bf16:
        stages = [stage.bfloat16() for stage in stages]
    elif not is_shared:
        return Alone(stages, groups)
    elif plan.zero_stage == 0 and plan.pp == 1 and not has_experts:
        return Bucketed(stages, groups)
    return flat(stages, groups)


def _stages(job: TrainingJob, groups: Groups, seed: int) -> list[Stage]:
    """The model chunks of this rank, split over tp, cp and ep and with recomputation as the plan says."""
    shape, plan = job.model, groups.plan
    assert isinstance(shape, TransformerShape)
    counts = [chunk.get(DENSE, 0) + chunk.get(MOE, 0) for chunk in stage_counts(shape, plan.pp * plan.vp, plan.layout)]
    starts = [sum(counts[:chunk]) for chunk in range(len(counts))]
    device, positions = groups.recorder.device, token_positions(plan, job.sequence_length, groups)
    stages = []
    for chunk in held_chunks(plan, groups["pp"].index):
        layers = range(starts[chunk], starts[chunk] + counts[chunk])
        is_last = chunk == len(counts) - 1
        stage = build_stage(shape, layers, first=chunk == 0, last=is_last, seed=seed).to(device)
        if plan.tp > 1:
            tensor_parallel(stage, shape, _tensor_axis(groups), device)
        if plan.cp > 1:
            context_parallel(stage, positions, groups)
        if stage.embedding is not None and (plan.cp > 1 or plan.sequence_parallel):
            stage.embedding.positions = groups["tp"].shard(positions, 0) if plan.sequence_parallel else positions
        if plan.ep > 1:
            expert_parallel(stage, groups["ep"])
        recompute(stage, plan)
        stages.append(stage)
    return stages


def _tensor_axis(groups: Groups) -> TensorAxis:
    return TensorAxis(groups["tp"], groups.plan.sequence_parallel)


def _loss(groups: Groups) -> Callable[[Tensor, Tensor], Tensor]:
    return ShardedLoss(_tensor_axis(groups)) if groups.plan.tp > 1 else token_loss


def _count(stages: list[Stage]) -> int:
    return sum(parameter.numel() for stage in stages for parameter in stage.parameters())


__all__ = ["LocalTrainer", "PipelineTrainer", "Trainer", "make_replicas", "make_trainer"]
