"""How one rank runs an optimizer step: all layers on one rank, or a stage of a pipeline; then reduce and update."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.nn.parallel import DistributedDataParallel

from planner.plan import Plan, Recompute
from planner.work.layers import DENSE, stage_counts
from profiles.model import TransformerShape
from profiles.workload import TrainingJob
from validate.measure import Recorder
from validate.models import Stage, build_stage, token_loss
from validate.shard import ShardedLoss, TensorAxis, recompute_layers, sequence_parameters, tensor_parallel

_LEARNING_RATE = 1e-3
"""High enough that three steps change the loss, so that an error in a gradient shows."""


class Trainer(Protocol):
    """One rank's part of an optimizer step."""

    recorder: Recorder
    num_parameters: int

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Train on this rank's sequences; the mean loss over them, or None where no head is."""


def make_trainer(job: TrainingJob, plan: Plan, mesh: DeviceMesh, recorder: Recorder, seed: int) -> Trainer:
    """The rank's share of the model under `plan`, ready to train."""
    if plan.pp > 1:
        return PipelineTrainer(job, plan, mesh, recorder, seed)
    return LocalTrainer(job, plan, mesh, recorder, seed)


class LocalTrainer:
    """All layers on every rank of a dp group; DistributedDataParallel reduces the gradients."""

    def __init__(self, job: TrainingJob, plan: Plan, mesh: DeviceMesh, recorder: Recorder, seed: int) -> None:
        self.recorder, self.plan = recorder, plan
        self.context = _context(job, recorder.device)
        axis = TensorAxis(mesh["tp"], recorder, plan.sequence_parallel)
        self.loss = _loss(plan, axis)
        (stage,) = _stages(job, plan, axis, mesh, seed)
        self.num_parameters = _count([stage])
        self.optimizer = Optimizer([stage], plan, mesh, recorder)
        self.model: nn.Module = stage
        self.last_gradient: Any = None
        if plan.dp == 1:
            return
        self.model = DistributedDataParallel(stage, process_group=mesh.get_group("dp"), gradient_as_bucket_view=True)
        for parameter in stage.parameters():
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def _note_gradient(self, _: Tensor) -> None:
        self.last_gradient = self.recorder.mark()

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Accumulate the gradients of the microbatches, reduce them with the last, update."""
        num_microbatches = len(inputs) // self.plan.micro_batch
        chunks = list(zip(inputs.chunk(num_microbatches), targets.chunk(num_microbatches), strict=True))
        total = torch.zeros((), device=inputs.device)
        for index, (tokens, expected) in enumerate(chunks):
            is_last = index == num_microbatches - 1
            with self._reduction(is_last), self.context():
                with self.recorder.span("forward"):
                    loss = self.loss(self.model(tokens), expected) / num_microbatches
                start = self.recorder.mark()
                loss.backward()
                self._record_backward(start, is_last)
            total += loss.detach()
        self.optimizer.step()
        return total

    def _reduction(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _record_backward(self, start: Any, is_last: bool) -> None:
        """Under DDP, what follows the last gradient is waiting for the reduction: exposed dp communication."""
        end = self.recorder.mark()
        if isinstance(self.model, DistributedDataParallel) and is_last:
            self.recorder.add("backward", start, self.last_gradient)
            self.recorder.add("dp", self.last_gradient, end)
        else:
            self.recorder.add("backward", start, end)


class TimedStage(PipelineStage):
    """A pipeline stage that notes when it computes; what lies between is communication or waiting."""

    recorder: Recorder

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, within a span."""
        with self.recorder.span("forward"):
            return super().forward_one_chunk(*args, **kwargs)

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """As PipelineStage, within a span."""
        with self.recorder.span("backward"):
            return super().backward_one_chunk(*args, **kwargs)


class PipelineTrainer:
    """One or more stages of a pipeline, run by a torch.distributed.pipelining schedule."""

    def __init__(self, job: TrainingJob, plan: Plan, mesh: DeviceMesh, recorder: Recorder, seed: int) -> None:
        self.recorder = recorder
        self.context = _context(job, recorder.device)
        axis = TensorAxis(mesh["tp"], recorder, plan.sequence_parallel)
        modules = _stages(job, plan, axis, mesh, seed)
        self.num_parameters = _count(modules)
        rank, num_stages, group = mesh.get_local_rank("pp"), plan.pp * plan.vp, mesh.get_group("pp")
        stages = [
            TimedStage(module, rank + plan.pp * chunk, num_stages, recorder.device, group=group)
            for chunk, module in enumerate(modules)
        ]
        for stage in stages:
            stage.recorder = recorder
        self.is_first, self.is_last = rank == 0, rank == plan.pp - 1
        self.schedule = _schedule(plan, stages, _loss(plan, axis), plan.num_microbatches(job.global_batch))
        self.optimizer = Optimizer(modules, plan, mesh, recorder)

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Run the schedule over the microbatches, reduce over dp, update."""
        losses: list[Tensor] = []
        arguments = (inputs,) if self.is_first else ()
        with self.context():
            if self.is_last:
                self.schedule.step(*arguments, target=targets, losses=losses, return_outputs=False)
            else:
                self.schedule.step(*arguments, return_outputs=False)
        self.optimizer.step()
        return torch.stack([loss.detach() for loss in losses]).mean() if losses else None


def _schedule(plan: Plan, stages: list[TimedStage], loss: Any, num_microbatches: int) -> Any:
    if plan.schedule == "interleaved":
        return ScheduleInterleaved1F1B(stages, num_microbatches, loss_fn=loss)
    kind = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[plan.schedule]
    return kind(stages[0], num_microbatches, loss_fn=loss)


class Optimizer:
    """Averages gradients where nothing else has, and updates the parameters with AdamW."""

    def __init__(self, modules: list[Stage], plan: Plan, mesh: DeviceMesh, recorder: Recorder) -> None:
        self.recorder, self.plan, self.mesh = recorder, plan, mesh
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.partial = [
            parameter
            for module in modules
            for parameter in sequence_parameters(module)
            if plan.sequence_parallel and plan.tp > 1
        ]
        if plan.zero_stage and plan.dp > 1:
            self.adam: Any = ZeroRedundancyOptimizer(
                self.parameters, torch.optim.AdamW, mesh.get_group("dp"), lr=_LEARNING_RATE, fused=True
            )
        else:
            self.adam = torch.optim.AdamW(self.parameters, lr=_LEARNING_RATE, fused=True)

    def step(self) -> None:
        """Reduce what is still partial, update, forget the gradients."""
        if self.partial:
            with self.recorder.span("tp"):
                _sum_gradients(self.partial, self.mesh.get_group("tp"), 1)
        if self.plan.pp > 1 and self.plan.dp > 1:
            with self.recorder.span("dp"):
                _sum_gradients(self.parameters, self.mesh.get_group("dp"), self.plan.dp)
        with self.recorder.span("optimizer"):
            self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None


def _sum_gradients(parameters: list[nn.Parameter], group: Any, divisor: int) -> None:
    """Sum gradients over `group` in one flat buffer, which they then lie in, divided by `divisor`."""
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    flat /= divisor
    dist.all_reduce(flat, group=group)
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _stages(job: TrainingJob, plan: Plan, axis: TensorAxis, mesh: DeviceMesh, seed: int) -> list[Stage]:
    """The model chunks of this rank, split over tp and with recomputation as the plan says."""
    shape = job.model
    assert isinstance(shape, TransformerShape)
    counts = [chunk.get(DENSE, 0) for chunk in stage_counts(shape, plan.pp * plan.vp, plan.layout)]
    starts = [sum(counts[:chunk]) for chunk in range(len(counts))]
    stages = []
    for chunk in range(mesh.get_local_rank("pp"), len(counts), plan.pp):
        layers = range(starts[chunk], starts[chunk] + counts[chunk])
        is_last = chunk == len(counts) - 1
        stage = build_stage(shape, layers, first=chunk == 0, last=is_last, seed=seed).to(axis.recorder.device)
        if plan.tp > 1:
            tensor_parallel(stage, shape, axis)
        if plan.recompute == Recompute.FULL:
            recompute_layers(stage)
        stages.append(stage)
    return stages


def _context(job: TrainingJob, device: torch.device) -> Any:
    """A factory of the context both directions run in: bf16 autocast where the job asks for it."""
    if job.precision == "bf16":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def _loss(plan: Plan, axis: TensorAxis) -> Callable[[Tensor, Tensor], Tensor]:
    return ShardedLoss(axis) if plan.tp > 1 else token_loss


def _count(modules: list[Stage]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
