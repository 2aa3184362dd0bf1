"""Context parallelism: attention over a sequence whose tokens are spread over ranks.

Keys and values pass around a ring [Liu 2023, arXiv:2310.01889], each rank holding an early and a late piece of the
sequence so that causal work is balanced [Brandon 2023, striped attention, arXiv:2311.09431], or are gathered first;
inside the ring ranks trade heads for tokens [Jacobs 2023, DeepSpeed-Ulysses, arXiv:2309.14509]. torch's own context
parallelism has no CPU kernels, and keeps DTensors.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from planner.plan import Plan
from validate.models import Core, Stage
from validate.parallel.blockwise import Block, attend, attend_backward
from validate.parallel.groups import Axis, Groups


def token_positions(plan: Plan, length: int, groups: Groups) -> Tensor:
    """Places in a sequence of `length` tokens that this rank of a cp group holds, in the order it holds them."""
    ring, trade = groups["cp_ring"], groups["cp_a2a"]
    pieces = torch.arange(length).chunk(2 * ring.size)
    mine = torch.cat((pieces[ring.index], pieces[2 * ring.size - 1 - ring.index]))
    return mine.chunk(trade.size)[trade.index].to(groups.recorder.device)


def context_parallel(stage: Stage, positions: Tensor, groups: Groups) -> None:
    """Let the attention of `stage` reach the tokens of all ranks of the cp group; this rank's are `positions`."""
    for layer in stage.layers.values():
        layer.attention.positions = positions
        core = layer.attention.core
        if groups["cp_ring"].size > 1:
            core = SpreadKeys(groups["cp_ring"], causal=core.causal, gathers=groups.plan.cp_gather)
        if groups["cp_a2a"].size > 1:
            core = TradeHeads(groups["cp_a2a"], core)
        layer.attention.core = core


class TradeHeads(nn.Module):
    """Ulysses: each rank gets all tokens of its share of the heads, runs `core` on them, and gives them back."""

    def __init__(self, axis: Axis, core: nn.Module) -> None:
        super().__init__()
        self.axis, self.core = axis, core

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, N, T, D) queries and (B, G, T, D) keys and values -> (B, N, T, D)."""
        size = self.axis.size
        by_rank = [part.unflatten(1, (size, -1)).movedim(1, 0) for part in (query, key, value)]
        heads = [part.shape[2] for part in by_rank]
        traded = _Trade.apply(torch.cat(by_rank, dim=2), self.axis)  # (source, B, heads, T, D)
        whole = traded.movedim(0, 2).flatten(2, 3)
        context = self.core(*whole.split(heads, dim=1))
        back = _Trade.apply(context.unflatten(2, (size, -1)).movedim(2, 0), self.axis)
        returned: Tensor = back.movedim(0, 1).flatten(1, 2)
        return returned


class _Trade(torch.autograd.Function):
    """All-to-all of equal shares along the first dimension; its own inverse."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return axis.all_to_all(shares)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.all_to_all(gradients), None


class SpreadKeys(Core):
    """Attention of this rank's queries over the keys and values of every rank of a ring."""

    def __init__(self, axis: Axis, *, causal: bool, gathers: bool) -> None:
        super().__init__(causal)
        self.axis, self.gathers = axis, gathers

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `Core`, each rank with its own tokens of the sequence."""
        way = _Gathered if self.gathers else _Ring
        context: Tensor = way.apply(query, torch.stack((key, value)), self)
        return context

    def blocks(self, source: int, length: int) -> Iterator[Block]:
        """Which of this rank's queries see which keys of rank `source`, both of `length` tokens.

        Both hold an early and a late piece. Under a causal mask an earlier rank's early piece is seen by all
        queries and its late piece by none; a later rank's whole share is seen by the late piece alone.
        """
        own, half, whole = self.axis.index, length // 2, slice(0, length)
        if not self.causal or source == own:
            yield Block(whole, whole, causal=self.causal)
        elif source < own:
            yield Block(whole, slice(0, half), causal=False)
        else:
            yield Block(slice(half, length), whole, causal=False)


class _Arrived(NamedTuple):
    """Keys and values that reached this rank, and whose they are."""

    source: int
    keys_values: Tensor


def _around(keys_values: Tensor, axis: Axis) -> Iterator[_Arrived]:
    """The keys and values of every rank, this one's first; the next travel while a caller works on these."""
    for step in range(axis.size):
        coming = axis.pass_on(keys_values) if step < axis.size - 1 else None
        yield _Arrived((axis.index - step) % axis.size, keys_values)
        if coming is not None:
            keys_values = coming()


def _gathered(keys_values: Tensor, axis: Axis) -> list[_Arrived]:
    parts = axis.all_gather(keys_values)
    return [_Arrived(source, part) for source, part in enumerate(parts)]


def _forward(ctx: Any, query: Tensor, keys_values: Tensor, core: SpreadKeys, arrived: Iterable[_Arrived]) -> Tensor:
    """Attention over all keys and values that arrive; keeps this rank's alone for the backward pass."""
    pieces = (
        (block, part.keys_values) for part in arrived for block in core.blocks(part.source, query.shape[2])
    )  # fmt: skip
    context, log_sums = attend(query, pieces)
    ctx.core = core
    ctx.save_for_backward(query, keys_values, context, log_sums)
    return context


class _Ring(torch.autograd.Function):
    """Keys and values go around; backward they go around again, and their gradients behind them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys_values: Tensor, core: SpreadKeys) -> Tensor:
        return _forward(ctx, query, keys_values, core, _around(keys_values, core.axis))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        query, keys_values, context, log_sums = ctx.saved_tensors
        axis: Axis = ctx.core.axis
        query_gradient, own_gradient = torch.zeros_like(query), torch.zeros_like(keys_values)
        travelling: Any = None
        for source, here in _around(keys_values, axis):
            arriving = own_gradient if source == axis.index else torch.zeros_like(here)
            for block in ctx.core.blocks(source, query.shape[2]):
                attend_backward(gradient, query, here, context, log_sums, block, query_gradient, arriving)
            if source != axis.index:
                total = arriving if travelling is None else travelling() + arriving
                travelling = axis.pass_on(total)
        return query_gradient, own_gradient + travelling(), None


class _Gathered(torch.autograd.Function):
    """Keys and values are gathered, again for the backward pass; their gradients are summed and scattered."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys_values: Tensor, core: SpreadKeys) -> Tensor:
        return _forward(ctx, query, keys_values, core, _gathered(keys_values, core.axis))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        query, keys_values, context, log_sums = ctx.saved_tensors
        axis: Axis = ctx.core.axis
        query_gradient = torch.zeros_like(query)
        gradients = keys_values.new_zeros(axis.size, *keys_values.shape)
        for source, here in _gathered(keys_values, axis):
            for block in ctx.core.blocks(source, query.shape[2]):
                attend_backward(gradient, query, here, context, log_sums, block, query_gradient, gradients[source])
        return query_gradient, axis.reduce_scatter(gradients), None
