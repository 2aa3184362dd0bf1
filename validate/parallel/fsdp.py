"""Fully sharded parameters by FSDP2 (`fully_shard`), over one axis or two (HSDP).

[Zhao 2023, PyTorch FSDP, arXiv:2304.11277; pytorch torch/distributed/fsdp/_fully_shard]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from validate.measure import Recorder
from validate.models import Stage
from validate.parallel.groups import Groups, all_gather_single, reduce_scatter_single
from validate.parallel.replicas import Alone


class _Gather:
    """The all-gather of `fully_shard`, timed."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for the gathered parameters."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        """Gather, within a span of dp."""
        with self.recorder.span("dp"):
            return all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _Scatter(_Gather):
    """The reduce-scatter of `fully_shard`, timed."""

    def __call__(  # type: ignore[override]
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> Any:
        """Reduce and scatter, within a span of dp."""
        with self.recorder.span("dp"):
            return reduce_scatter_single(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


class FullyShard(Alone):
    """Each layer, and the rest of a stage as its root, is gathered where it runs and its gradients are sharded."""

    def __init__(self, stages: Sequence[Stage], groups: Groups, *, is_bf16: bool) -> None:
        plan, recorder = groups.plan, groups.recorder
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if is_bf16 else MixedPrecisionPolicy()
        mesh = groups.mesh(("dp-replicate", "dp-shard"), recorder.device)
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy}
        for stage in stages:
            for layer in stage.layers.values():
                fully_shard(layer, reshard_after_forward=plan.reshard_after_forward, **options)
            fully_shard(stage, reshard_after_forward=None if plan.reshard_after_forward else False, **options)
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_all_gather(_Gather(recorder))
                    module.set_custom_reduce_scatter(_Scatter(recorder))
        super().__init__(stages, groups)
