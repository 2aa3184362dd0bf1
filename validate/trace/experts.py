"""A mixture of experts that is traced: every expert gets as many rows as any other, as the planner assumes.

What routing decides depends on data, which a trace has none of; rows are dealt out evenly and everything else is as
in a real dispatch: copies sorted by expert, exchanged over ep, gathered over etp, computed in one batch of products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd

from profiles.model import TransformerShape
from validate.parallel.groups import Axis
from validate.trace.model import FeedForward


class Experts(nn.Module):
    """This rank's share of the experts and of their width."""

    def __init__(self, shape: TransformerShape, num_experts: int, width: int) -> None:
        super().__init__()
        self.is_gated = shape.gated_ffn
        inner = (2 if self.is_gated else 1) * width
        self.up = nn.Parameter(torch.empty(num_experts, shape.hidden_size, inner))
        self.down = nn.Parameter(torch.empty(num_experts, width, shape.hidden_size))
        for parameter in self.parameters():
            parameter.is_expert = True

    def forward(self, rows: Tensor) -> Tensor:
        """(experts, rows of each, H) -> the same."""
        inner = torch.bmm(rows, self.up)
        if self.is_gated:
            gate, up = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        else:
            inner = F.gelu(inner)
        return torch.bmm(inner, self.down)


def is_expert(parameter: nn.Parameter) -> bool:
    """Whether a parameter, not yet sharded, lies on the expert mesh."""
    return bool(getattr(parameter, "is_expert", False))


class MixtureOfExperts(nn.Module):
    """Routing, dispatch, experts and combination; (B, T, H) -> (B, T, H)."""

    def __init__(self, shape: TransformerShape, axis: Axis) -> None:
        super().__init__()
        moe = shape.moe
        assert moe is not None
        self.axis, self.top_k, self.num_experts = axis, moe.top_k, moe.num_experts
        self.router = nn.Linear(shape.hidden_size, moe.num_experts, bias=False)
        self.experts = Experts(shape, moe.num_experts // axis.size, moe.expert_ffn_size)
        self.shared = FeedForward(shape, moe.shared_width) if moe.shared_width else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Each token to its best experts, their outputs weighted and summed."""
        tokens = hidden.flatten(0, -2)
        weights, chosen = self.router(tokens).float().softmax(-1).to(tokens.dtype).topk(self.top_k)
        order = chosen.flatten().argsort(stable=True)
        rows = tokens[order // self.top_k].unflatten(0, (self.num_experts, -1))
        computed = self._on_their_ranks(rows).flatten(0, 1)
        weighted = computed * weights.flatten().gather(0, order).unsqueeze(-1)
        mixed = torch.zeros_like(tokens).index_add(0, order // self.top_k, weighted).view_as(hidden)
        return mixed if self.shared is None else mixed + self.shared(hidden)

    def _on_their_ranks(self, rows: Tensor) -> Tensor:
        """(all experts, rows of each, H), computed where each expert lives."""
        size = self.axis.size
        if size == 1:
            computed: Tensor = self.experts(rows)
            return computed
        arrived = self._exchange(rows).unflatten(0, (size, -1))  # (source, experts here, rows, H)
        computed = self.experts(arrived.transpose(0, 1).flatten(1, 2))
        back = computed.unflatten(1, (size, -1)).transpose(0, 1).flatten(0, 1)
        return self._exchange(back)

    def _exchange(self, shares: Tensor) -> Tensor:
        """Equal shares of the first dimension to every rank; gradients go the other way."""
        exchanged: Tensor = all_to_all_single_autograd(shares.contiguous(), None, None, self.axis.group)
        return exchanged
