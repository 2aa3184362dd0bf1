"""Gradients, their reduction and the optimizer of a traced rank: FSDP's own, or buffers as Megatron's optimizer has."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from planner.plan import Plan
from profiles.workload import TrainingJob
from validate.parallel.groups import all_gather_single, reduce_scatter_single
from validate.trace.world import World

_OPTIMIZERS: dict[str, Any] = {
    "adam": lambda parameters: torch.optim.AdamW(parameters, foreach=False),
    "sgd": lambda parameters: torch.optim.SGD(parameters, momentum=0.9, foreach=False),
}


def make_optimizer(name: str, parameters: list[Any]) -> torch.optim.Optimizer:
    """The job's optimizer, with its states already there: a first step of zero gradients makes them."""
    made: torch.optim.Optimizer = _OPTIMIZERS[name](parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    made.zero_grad(set_to_none=True)
    return made


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass(slots=True)
class Bucket:
    """Parameters whose gradients are summed over the same ranks, in one buffer; ZeRO-1 shards what follows.

    Masters are fp32 copies of narrower parameters, of the rank's shard alone where they are sharded. A shard of
    fp32 parameters is copied out for the update and freed again.
    """

    parameters: list[nn.Parameter]
    part: str
    """"dp", or "edp" for experts."""
    plan: Plan
    world: World
    gradients: Tensor
    """Padded to a multiple of the shards."""
    masters: list[nn.Parameter] = field(default_factory=list)
    optimizer: Any = None

    @classmethod
    def of(
        cls, parameters: list[nn.Parameter], part: str, job: TrainingJob, plan: Plan, world: World, dtype: torch.dtype
    ) -> "Bucket":
        """A bucket with its hooks and its optimizer, before any step."""
        shards = world.meshes[f"{part}_shard"].size() if plan.zero_stage else 1
        count = sum(local(parameter).numel() for parameter in parameters)
        bucket = cls(parameters, part, plan, world, torch.zeros(-(-count // shards) * shards, dtype=dtype))
        start = 0
        for parameter in parameters:
            own = bucket.gradients[start : start + local(parameter).numel()]
            parameter.register_post_accumulate_grad_hook(_adder(own))
            start += len(own)
        if shards > 1:
            bucket.masters = [nn.Parameter(torch.zeros(len(bucket.gradients) // shards, dtype=torch.float32))]
        elif local(parameters[0]).dtype != torch.float32:
            bucket.masters = [
                nn.Parameter(torch.zeros(local(parameter).shape, dtype=torch.float32)) for parameter in parameters
            ]
        bucket.optimizer = make_optimizer(job.optimizer, bucket.masters or parameters)
        return bucket

    def step(self) -> None:
        """Reduce, update, gather."""
        own = self._reduced()
        updated = self.masters or self.parameters
        for parameter, gradient in zip(updated, own, strict=True):
            parameter.grad = _as(parameter, gradient.to(parameter.dtype))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.is_sharded:
            narrow = self.masters[0].detach().to(local(self.parameters[0]).dtype)
            whole = narrow.new_empty(len(self.gradients))
            all_gather_single(whole, narrow, group=self.world.group(f"{self.part}_shard"))

    @property
    def num_padding(self) -> int:
        """Elements of the buffer that belong to no parameter."""
        return len(self.gradients) - sum(local(parameter).numel() for parameter in self.parameters)

    @property
    def is_sharded(self) -> bool:
        """Whether ranks update a share each."""
        return self.plan.zero_stage > 0 and self.world.meshes[f"{self.part}_shard"].size() > 1

    def _reduced(self) -> list[Tensor]:
        """The summed gradients of what this rank updates."""
        if self.is_sharded:
            own = self.gradients.new_empty(len(self.masters[0]))
            reduce_scatter_single(own, self.gradients, group=self.world.group(f"{self.part}_shard"))
            if self.plan.dp_replicate > 1:
                dist.all_reduce(own, group=self.world.group(f"{self.part}_replicate"))
            return [own]
        if self.world.meshes[f"{self.part}_all"].size() > 1:
            dist.all_reduce(self.gradients, group=self.world.group(f"{self.part}_all"))
        sizes = [local(parameter).numel() for parameter in self.parameters]
        pieces = self.gradients[: sum(sizes)].split(sizes)
        return [piece.view_as(local(parameter)) for piece, parameter in zip(pieces, self.parameters, strict=True)]


def _as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """This rank's gradient as a parameter takes it: one that is split over tp takes no plain tensor."""
    if not isinstance(parameter, DTensor):
        return gradient
    split: Tensor = DTensor.from_local(gradient, parameter.device_mesh, parameter.placements, run_check=False)
    return split


def _adder(own: Tensor) -> Any:
    """What adds a parameter's gradient to its place; those of norms are partial sums under sequence parallelism."""

    def add(parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
            gradient = gradient.redistribute(placements=parameter.placements)
        own.add_(local(gradient).flatten())
        parameter.grad = None

    return add
