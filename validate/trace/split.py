"""A chunk of the traced model split as a plan says, by torch's own styles: tp, sp, loss parallel, checkpoint, FSDP."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from planner.plan import Plan
from planner.recompute import Recompute
from profiles.software import SoftwareStack
from validate.trace.experts import Experts
from validate.trace.model import Chunk, FeedForward
from validate.trace.world import World


def tensor_parallel(chunk: Chunk, plan: Plan, mesh: DeviceMesh) -> None:
    """Split matrices over tp; each part of a layer gathers (or copies) its input once and sums its output once.

    Without `PrepareModuleInput` every one of the projections that share an input would do so by itself.
    """
    outside: Any = Shard(1) if plan.sequence_parallel else Replicate()
    styles: dict[str, ParallelStyle] = {}
    if chunk.embedding is not None:
        styles["embedding.tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=outside)
    for index, layer in enumerate(chunk.layers):
        styles |= {f"layers.{index}.{name}": style for name, style in _layer_styles(layer, outside).items()}
    if chunk.head is not None:
        styles["head.logits"] = ColwiseParallel(input_layouts=outside, output_layouts=Shard(-1), use_local_output=False)
    if plan.sequence_parallel:
        styles |= {name: SequenceParallel() for name, _ in chunk.named_modules() if name.endswith(_OUTER_NORMS)}
    parallelize_module(chunk, mesh, styles)
    chunk.tie()


_OUTER_NORMS = ("attention_norm", "ffn_norm", "head.norm")


def _layer_styles(layer: nn.Module, outside: Any) -> dict[str, ParallelStyle]:
    def entrance() -> ParallelStyle:
        return PrepareModuleInput(input_layouts=(outside,), desired_input_layouts=(Replicate(),))

    styles: dict[str, ParallelStyle] = {"attention": entrance()}
    styles["attention.out"] = RowwiseParallel(output_layouts=outside)
    styles |= {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
    if isinstance(layer.ffn, FeedForward):
        styles |= {f"ffn{name}": style for name, style in _ffn_styles(layer.ffn, outside).items()}
        return styles
    styles["ffn"] = PrepareModuleInput(
        input_layouts=(outside,), desired_input_layouts=(outside,), use_local_output=True
    )
    if layer.ffn.shared is not None:
        styles |= {f"ffn.shared{name}": style for name, style in _ffn_styles(layer.ffn.shared, outside).items()}
    return styles


def _ffn_styles(ffn: FeedForward, outside: Any) -> dict[str, ParallelStyle]:
    """By what follows the name of the module."""
    styles: dict[str, ParallelStyle] = {
        "": PrepareModuleInput(input_layouts=(outside,), desired_input_layouts=(Replicate(),)),
        ".up": ColwiseParallel(),
        ".down": RowwiseParallel(output_layouts=outside),
    }
    if ffn.gate is not None:
        styles[".gate"] = ColwiseParallel()
    return styles


def recompute_layers(chunk: Chunk, plan: Plan, again: Callable[[], Any]) -> None:
    """Checkpoint all layers, or the first `recompute_layers`; `again` makes the context in which one runs again."""
    if plan.recompute != Recompute.FULL:
        return
    limit = plan.recompute_layers or len(chunk.layers)

    def phases() -> tuple[Any, Any]:
        return contextlib.nullcontext(), again()

    for index in range(min(limit, len(chunk.layers))):
        chunk.layers[index] = checkpoint_wrapper(chunk.layers[index], context_fn=phases)


def shard_parameters(chunk: Chunk, plan: Plan, world: World, stack: SoftwareStack, precision: str) -> None:
    """FSDP2 over each layer, over its experts' own mesh, and over what is left of the chunk."""
    narrow = precision != "fp32"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if narrow else None,
        reduce_dtype=reduce_dtype(stack) if narrow else None,
        cast_forward_inputs=False,
    )

    def shard(module: nn.Module, mesh: str, reshard: bool | None) -> None:
        fully_shard(module, mesh=world.meshes[mesh], reshard_after_forward=reshard, mp_policy=policy)

    for layer in chunk.layers:
        for module in [module for module in layer.modules() if isinstance(module, Experts)]:
            shard(module, "expert_shards", plan.reshard_after_forward)
        shard(layer, "dense_shards", plan.reshard_after_forward)
    shard(chunk, "dense_shards", None)


def accumulated_bytes(chunk: nn.Module) -> float:
    """Bytes of the gradients that FSDP has summed and not yet reduced: where it waits for the last microbatch."""
    total = 0.0
    for module in chunk.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                sums = [parameter.unsharded_accumulated_grad for parameter in group.fsdp_params]
                total += sum(float(local.numel() * local.element_size()) for local in _locals(sums))
    return total


def _locals(tensors: Iterable[Any]) -> Iterator[Tensor]:
    for tensor in tensors:
        if tensor is not None:
            yield tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reduce_dtype(stack: SoftwareStack) -> torch.dtype:
    """Format in which gradients are summed over ranks."""
    return torch.float32 if stack.gradient_bytes == 4.0 else torch.bfloat16
