"""Fully sharded parameters by FSDP2 (`fully_shard`), over one axis or two (HSDP).

[Zhao 2023, PyTorch FSDP, arXiv:2304.11277; pytorch torch/distributed/fsdp/_fully_shard]
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from validate.models import Stage
from validate.parallel.experts import spread_experts
from validate.parallel.flat import Bucket
from validate.parallel.groups import Groups, all_gather_single, reduce_scatter_single
from validate.parallel.replicas import Alone, Flat, adamw


class _Gather:
    """The all-gather of `fully_shard` for one module, timed, with the padding it sends counted."""

    def __init__(self, groups: Groups, axis: str, num_padded: int) -> None:
        self.groups, self.axis, self.num_padded = groups, axis, num_padded

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for the gathered parameters."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        """Gather, within a span of dp."""
        self.groups.count_padding(f"{self.axis}-shard", "all_gather", self.num_padded * input_tensor.element_size())
        with self.groups.recorder.span("dp"):
            return all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _Scatter(_Gather):
    """The reduce-scatter of `fully_shard`, likewise; the shards' all-reduce between replicas follows it."""

    def __call__(  # type: ignore[override]
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> Any:
        """Reduce and scatter, within a span of dp."""
        padded = self.num_padded * input_tensor.element_size()
        self.groups.count_padding(f"{self.axis}-shard", "reduce_scatter", padded)
        self.groups.count_padding(f"{self.axis}-replicate", "all_reduce", padded / dist.get_world_size(group))
        with self.groups.recorder.span("dp"):
            return reduce_scatter_single(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


class FullyShard(Alone):
    """Each layer, and the rest of a stage as its root, is gathered where it runs and its gradients are sharded.

    Parameters are padded along their first dimension to equal shards. Experts that ep spreads are sharded over the
    ranks that hold the same ones; where no other does, they stay whole.
    """

    def __init__(self, stages: Sequence[Stage], groups: Groups, *, is_bf16: bool) -> None:
        self.groups = groups
        self.policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if is_bf16 else MixedPrecisionPolicy()
        spread = [experts for stage in stages for experts in spread_experts(stage)]
        kept = spread if groups["edp-shard"].size == 1 else []
        for experts in kept if is_bf16 else ():
            experts.bfloat16()
        self.whole = {parameter for experts in kept for parameter in experts.parameters()}
        for experts in spread:
            if experts not in kept:
                self._shard_experts(experts)
        for stage in stages:
            for layer in stage.layers.values():
                self._shard(layer, "dp", groups.plan.reshard_after_forward)
            self._shard(stage, "dp", None if groups.plan.reshard_after_forward else False)
        super().__init__(stages, groups)
        self.parameters = [parameter for parameter in self.parameters if parameter not in self.whole]
        self.adam = adamw(self.parameters)
        axes = (groups.alone, groups["edp-replicate"])
        buckets = [Bucket(list(experts.parameters()), (), groups, axes) for experts in kept]
        self.experts = Flat(kept, buckets, groups) if kept else None

    def _shard(self, module: nn.Module, axis: str, reshards: bool | None) -> Any:
        groups = self.groups
        mesh = groups.mesh((f"{axis}-replicate", f"{axis}-shard"), groups.recorder.device)
        ignored = {parameter for parameter in module.parameters() if parameter in self.whole}
        padded = sum(
            -len(parameter) % groups[f"{axis}-shard"].size * parameter[0].numel()
            for parameter in module.parameters()
            if parameter not in ignored and not hasattr(parameter, "to_local")
        )
        fully_shard(module, mesh=mesh, mp_policy=self.policy, reshard_after_forward=reshards, ignored_params=ignored)
        sharded: Any = module
        sharded.set_custom_all_gather(_Gather(groups, axis, padded))
        sharded.set_custom_reduce_scatter(_Scatter(groups, axis, padded))
        return sharded

    def _shard_experts(self, experts: nn.Module) -> None:
        """Their gradients are sums over the tokens of dp x cp ranks, of which fewer hold a copy."""
        plan = self.groups.plan
        sharded = self._shard(experts, "edp", plan.reshard_after_forward)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_gradient_divide_factor(float(plan.dp * plan.cp))

    def finish(self) -> None:
        """Also update the experts that are kept whole."""
        super().finish()
        if self.experts is not None:
            self.experts.finish()
