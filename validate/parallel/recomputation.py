"""Recomputation of the layers of a stage: whole layers, modules of them, or every second product."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from planner.plan import Plan
from planner.recompute import Module, Recompute
from validate.models import Block, MixtureOfExperts, Stage


def recompute(stage: Stage, plan: Plan) -> None:
    """Keep less of each layer of `stage` and run it again in the backward pass; call after the axes have split it.

    Full recomputation keeps the inputs of the first `recompute_layers` layers (0: of all).
    """
    names = list(stage.layers)
    match plan.recompute:
        case Recompute.FULL:
            for name in names[: plan.recompute_layers or None]:
                stage.layers[name] = checkpoint_wrapper(stage.layers[name])
        case Recompute.OPERATORS:
            for name in names:
                stage.layers[name] = checkpoint_wrapper(stage.layers[name], context_fn=_every_second_product)
        case Recompute.SELECTIVE:
            for name in names:
                _recompute_modules(stage.layers[name], plan.recompute_modules)


def _recompute_modules(layer: Block, modules: Module) -> None:
    """Run the named parts of one layer again."""
    if modules & Module.CORE_ATTN:
        layer.attention.core = checkpoint_wrapper(layer.attention.core)
    if not isinstance(layer.ffn, MixtureOfExperts):
        layer.recomputes_ffn = bool(modules & Module.MLP)
        return
    if modules & Module.SHARED_EXPERTS and layer.ffn.shared is not None:
        layer.ffn.shared = checkpoint_wrapper(layer.ffn.shared)
    if modules & Module.MOE:
        layer.ffn = checkpoint_wrapper(layer.ffn)


_PRODUCTS = frozenset({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})
_ATTENTION = frozenset(
    {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    }
)


def _every_second_product() -> Any:
    """Keep attention and the first, third ... product of a layer (torchtitan's selective recomputation "op")."""
    seen: Counter[bool] = Counter()

    def policy(seen: Counter[bool], context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operation in _PRODUCTS:
            seen[context.is_recompute] += 1
            return CheckpointPolicy.MUST_SAVE if seen[context.is_recompute] % 2 else CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if operation in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(partial(policy, seen))
