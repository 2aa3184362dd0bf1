"""Applies a plan to a stage: tensor and sequence parallelism first, then recomputation."""

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from profiles.model import TransformerShape
from validate.models import Stage


def tensor_parallel(stage: Stage, shape: TransformerShape, mesh: DeviceMesh, *, sequence_parallel: bool) -> None:
    """Split the matrices of `stage` over the tp `mesh`, Megatron's way [Shoeybi 2019, arXiv:1909.08053].

    Each part of a layer enters once (one all-reduce of the input's gradient) and leaves once. With
    `sequence_parallel`, residuals and norms hold T / tp tokens [Korthikanti 2022, arXiv:2205.05198].
    Raises AssertionError when a style matched no module, which `parallelize_module` only warns about.
    """
    styles = _stage_styles(stage, Shard(1) if sequence_parallel else Replicate())
    parallelize_module(stage, mesh, styles)
    stage.tie(shape)
    split = sum(isinstance(parameter, DTensor) and parameter.placements[0].is_shard()
                for parameter in stage.parameters())  # fmt: skip
    assert split >= 4 * len(stage.layers), f"{split} parameters were split, expected at least {4 * len(stage.layers)}"


def _stage_styles(stage: Stage, residual: Shard | Replicate) -> dict[str, ParallelStyle]:
    styles: dict[str, ParallelStyle] = {}
    if stage.embedding is not None:
        styles["embedding.tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        if residual != Replicate():
            styles["embedding"] = PrepareModuleOutput(output_layouts=Replicate(), desired_output_layouts=residual)
    for name, layer in stage.layers.items():
        styles |= {f"layers.{name}.{part}": style for part, style in _block_styles(layer, residual).items()}
    if stage.head is not None:
        if residual != Replicate():
            styles["head.norm"] = SequenceParallel()
        styles["head.logits"] = ColwiseParallel(
            input_layouts=residual, output_layouts=Shard(-1), use_local_output=False
        )
    return styles


def _block_styles(layer: nn.Module, residual: Shard | Replicate) -> dict[str, ParallelStyle]:
    enter = PrepareModuleInput(input_layouts=(residual,), desired_input_layouts=(Replicate(),))
    leave = RowwiseParallel(output_layouts=residual)
    styles: dict[str, ParallelStyle] = {
        "attention": enter,
        "attention.qkv": ColwiseParallel(),
        "attention.out": leave,
        "ffn": enter,
        "ffn.up": ColwiseParallel(),
        "ffn.down": leave,
    }
    if layer.ffn.gate is not None:
        styles["ffn.gate"] = ColwiseParallel()
    if residual != Replicate():
        styles |= {"attention_norm": SequenceParallel(), "ffn_norm": SequenceParallel()}
    return styles


def recompute_layers(stage: Stage) -> None:
    """Keep only the input of each layer and run it again in the backward pass; call after `tensor_parallel`."""
    for name, layer in stage.layers.items():
        stage.layers[name] = checkpoint_wrapper(layer)


def local(tensor: Tensor) -> Tensor:
    """The part of a possibly distributed tensor that this rank stores, without copying."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradient(parameter: Tensor) -> Tensor:
    """The gradient of the part that `local` returns; sums what a rank holds of it only partially."""
    gradient = parameter.grad
    assert gradient is not None, "every parameter takes part in the loss"
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        gradient = gradient.redistribute(placements=parameter.placements)
    return local(gradient)
