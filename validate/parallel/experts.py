"""Expert parallelism: rows travel to the ranks that hold their experts, and back, by all-to-all.

[Fedus 2021, arXiv:2101.03961, section 2.4; Megatron-Core's all-to-all token dispatcher]
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from validate.models import Experts, MixtureOfExperts, Stage
from validate.parallel.groups import Axis


def expert_parallel(stage: Stage, axis: Axis) -> None:
    """Keep this rank's share of the experts of every sparse layer, and reach the others over `axis`."""
    for layer in stage.layers.values():
        if isinstance(layer.ffn, MixtureOfExperts):
            layer.ffn.experts = ExchangedExperts(layer.ffn.experts, axis)


def spread_experts(stage: Stage) -> list[Experts]:
    """This rank's experts of the layers whose others are on other ranks."""
    return [module.experts for module in stage.modules() if isinstance(module, ExchangedExperts)]


class ExchangedExperts(nn.Module):
    """The rank's share of the experts, for the rows of every rank of the axis."""

    def __init__(self, experts: Experts, axis: Axis) -> None:
        super().__init__()
        self.axis = axis
        for name, parameter in list(experts.named_parameters()):
            setattr(experts, name, nn.Parameter(axis.shard(parameter.detach(), 0)))
        self.experts = experts

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """(rows, H) of this rank sorted by expert, `counts` of them for each -> (rows, H)."""
        size = self.axis.size
        wanted = torch.tensor(counts, device=rows.device).view(size, -1)
        coming = self._exchange_counts(wanted)  # (source, expert of this rank)
        sent, received = wanted.sum(1).tolist(), coming.sum(1).tolist()
        arrived = _Exchange.apply(rows, received, sent, self.axis)
        by_expert = torch.arange(coming.shape[1], device=rows.device).repeat(size)
        order = by_expert.repeat_interleave(coming.flatten()).argsort(stable=True)
        computed = self.experts(arrived[order], coming.sum(0).tolist())
        back = torch.empty_like(computed).index_copy(0, order, computed)
        returned: Tensor = _Exchange.apply(back, sent, received, self.axis)
        return returned

    def _exchange_counts(self, wanted: Tensor) -> Tensor:
        coming = torch.empty_like(wanted)
        with self.axis.recorder.span(self.axis.part):
            dist.all_to_all_single(coming, wanted, group=self.axis.group)
        return coming


class _Exchange(torch.autograd.Function):
    """All-to-all of as many rows as each pair of ranks has for one another; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, received: list[int], sent: list[int], axis: Axis) -> Tensor:
        ctx.shares, ctx.axis = (received, sent), axis
        return axis.all_to_all(rows, received, sent)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        received, sent = ctx.shares
        return ctx.axis.all_to_all(gradient, sent, received), None, None, None
