"""Tensor and sequence parallelism of a stage, and the loss of logits that are split over tp.

The styles here go through `torch.distributed.tensor.parallel.parallelize_module`, but leave plain tensors where
torch's own leave DTensors: dispatching those took a third of a small model's step on CPUs, and DTensors do not
mix with DistributedDataParallel.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from profiles.model import TransformerShape
from validate.models import Stage
from validate.parallel.groups import Axis


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """The tp group of this rank, and whether what lies between split parts is sharded by tokens."""

    axis: Axis
    sequence_parallel: bool

    @property
    def size(self) -> int:
        """Ranks that share each layer."""
        return self.axis.size

    @property
    def rank(self) -> int:
        """This rank's place among them."""
        return self.axis.index

    def gather_sequence(self, part: Tensor) -> Tensor:
        """(B, T / tp, H) of each rank -> (B, T, H)."""
        return self.axis.all_gather(part).transpose(0, 1).flatten(1, 2)

    def scatter_sequence(self, whole: Tensor) -> Tensor:
        """Sum (B, T, H) over the ranks; each keeps its (B, T / tp, H)."""
        return self.axis.reduce_scatter(whole.unflatten(1, (self.size, -1)).transpose(0, 1))


class _Enter(torch.autograd.Function):
    """Into a split part: copy forward, sum the gradients backward [Shoeybi 2019, arXiv:1909.08053, operator f]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.gather_sequence(hidden) if axis.sequence_parallel else hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        axis: TensorAxis = ctx.axis
        return (axis.scatter_sequence if axis.sequence_parallel else axis.axis.all_reduce)(gradient.contiguous()), None


class _Leave(torch.autograd.Function):
    """Out of a split part: sum forward, copy the gradient backward [Shoeybi 2019, operator g]."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.scatter_sequence(partial) if axis.sequence_parallel else axis.axis.all_reduce(partial.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        axis: TensorAxis = ctx.axis
        return axis.gather_sequence(gradient) if axis.sequence_parallel else gradient, None


@dataclass
class Entrance(ParallelStyle):
    """The input of a module becomes whole, its gradient summed."""

    axis: TensorAxis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.register_forward_pre_hook(lambda _, inputs: (_Enter.apply(inputs[0], self.axis),))
        return module


@dataclass
class Columns(ParallelStyle):
    """A linear layer computes its rank's share of the output features."""

    axis: TensorAxis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(self.axis.axis.shard(parameter.detach(), 0)))
        return module


@dataclass
class Rows(ParallelStyle):
    """A linear layer takes its rank's share of the input features; the outputs are summed, then the bias added."""

    axis: TensorAxis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.weight = nn.Parameter(self.axis.axis.shard(module.weight.detach(), 1))

        def forward(hidden: Tensor) -> Tensor:
            summed: Tensor = _Leave.apply(nn.functional.linear(hidden, module.weight), self.axis)
            return summed if module.bias is None else summed + module.bias

        module.forward = forward
        return module


@dataclass
class VocabularyRows(ParallelStyle):
    """An embedding holds its rank's share of the vocabulary; other tokens give zeros, and the rows are summed."""

    axis: TensorAxis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.weight = nn.Parameter(self.axis.axis.shard(module.weight.detach(), 0))
        first, count = self.axis.rank * len(module.weight), len(module.weight)

        def forward(tokens: Tensor) -> Tensor:
            rows = tokens - first
            absent = (rows < 0) | (rows >= count)
            found = nn.functional.embedding(rows.masked_fill(absent, 0), module.weight)
            summed: Tensor = _Leave.apply(found.masked_fill(absent.unsqueeze(-1), 0.0), self.axis)
            return summed

        module.forward = forward
        return module


def tensor_parallel(stage: Stage, shape: TransformerShape, axis: TensorAxis, device: torch.device) -> None:
    """Split the matrices of `stage` over tp, Megatron's way [Shoeybi 2019, arXiv:1909.08053].

    Each part of a layer enters once (one sum of the input's gradient) and leaves once. With sequence parallelism
    residuals and norms hold T / tp tokens [Korthikanti 2022, arXiv:2205.05198]; the gradients of what lies there
    (`sequence_parameters`) are then partial sums.
    """
    parallelize_module(stage, axis.axis.mesh(device), _styles(stage, axis))
    stage.tie(shape)


def _styles(stage: Stage, axis: TensorAxis) -> dict[str, ParallelStyle]:
    styles: dict[str, ParallelStyle] = {}
    if stage.embedding is not None:
        styles["embedding.tokens"] = VocabularyRows(axis)
    for index, layer in stage.layers.items():
        columns = ["attention.qkv", "ffn.up"] + (["ffn.gate"] if layer.ffn.gate is not None else [])
        styles |= {f"layers.{index}.{name}": Columns(axis) for name in columns}
        styles |= {f"layers.{index}.{name}": Rows(axis) for name in ("attention.out", "ffn.down")}
        styles |= {f"layers.{index}.{name}": Entrance(axis) for name in ("attention", "ffn")}
    if stage.head is not None:
        styles["head.logits"] = _Logits(axis)
    return styles


@dataclass
class _Logits(Columns):
    """The logits enter and split at once: their input is their module's."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return Entrance(self.axis)._apply(super()._apply(module, device_mesh), device_mesh)


def sequence_parameters(stage: Stage) -> list[nn.Parameter]:
    """Parameters that sequence parallelism applies to T / tp tokens only: norms, learned positions, late biases."""
    late = ("out.bias", "down.bias", "learned.weight")
    return [parameter for name, parameter in stage.named_parameters() if "norm" in name or name.endswith(late)]


class _ShardedLoss(torch.autograd.Function):
    """Cross-entropy of logits split over the vocabulary [Shoeybi 2019, section 3]: sums of one value a token."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, axis: TensorAxis) -> Tensor:
        own = torch.log_softmax(logits, dim=-1)
        own_total = logits[:, 0] - own[:, 0]  # log of the sum of exponentials over this rank's columns
        largest = axis.axis.all_reduce(own_total.clone(), dist.ReduceOp.MAX)
        columns = targets - axis.rank * logits.shape[-1]
        absent = (columns < 0) | (columns >= logits.shape[-1])
        columns = columns.masked_fill(absent, 0).unsqueeze(-1)
        wanted = logits.gather(-1, columns).squeeze(-1).masked_fill(absent, 0.0)
        total = largest + axis.axis.all_reduce((own_total - largest).exp()).log()
        wanted = axis.axis.all_reduce(wanted)
        ctx.save_for_backward(own, own_total - total, columns, absent)
        return (total - wanted).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        own, to_whole, columns, absent = ctx.saved_tensors
        each = gradient / absent.numel()
        logits_gradient = (own + to_whole.unsqueeze(-1)).exp_().mul_(each)
        return logits_gradient.scatter_add_(-1, columns, -each * (~absent).unsqueeze(-1)), None, None


@dataclass(frozen=True, slots=True)
class ShardedLoss:
    """Mean cross-entropy of (B, T, vocabulary / tp) logits against (B, T) tokens; the same on every rank."""

    axis: TensorAxis

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = _ShardedLoss.apply(logits.flatten(0, 1).float(), targets.flatten(), self.axis)
        return loss
