"""Attention over keys and values that come in pieces: partial results are merged by their log-sum-exp.

[Liu 2023, ring attention, arXiv:2310.01889, section 3; Dao 2022, FlashAttention, arXiv:2205.14135, appendix B]
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_ATEN = torch.ops.aten


class Block(NamedTuple):
    """Queries that see keys of one piece."""

    queries: slice
    keys: slice
    causal: bool


def attend(query: Tensor, pieces: Iterable[tuple[Block, Tensor]]) -> tuple[Tensor, Tensor]:
    """The context (B, N, T, D) of queries over `pieces` of (2, B, G, T, D) keys and values, and the log-sum-exp.

    Every query must see a key of the first piece.
    """
    context = log_sums = None
    for block, keys_values in pieces:
        key, value = _for_heads(keys_values[..., block.keys, :], query.shape[1])
        part, part_sums = _fused(query[:, :, block.queries], key, value, block.causal)
        if context is None:
            context, log_sums = part.float(), part_sums
            continue
        assert log_sums is not None
        rows, before = block.queries, log_sums[:, :, block.queries]
        after = torch.logaddexp(before, part_sums)
        share = (part_sums - after).exp().unsqueeze(-1)
        context[:, :, rows] = context[:, :, rows] * (before - after).exp().unsqueeze(-1) + part.float() * share
        log_sums[:, :, rows] = after
    assert context is not None
    assert log_sums is not None
    return context.to(query.dtype), log_sums


def attend_backward(
    gradient: Tensor,
    query: Tensor,
    keys_values: Tensor,
    context: Tensor,
    log_sums: Tensor,
    block: Block,
    query_gradient: Tensor,
    keys_values_gradient: Tensor,
) -> None:
    """Add what `block` gives to the gradients of queries and of its keys and values.

    `context` and `log_sums` are those of the whole attention, so that each piece's share is exact by itself.
    """
    rows = (slice(None), slice(None), block.queries)
    key, value = _for_heads(keys_values[..., block.keys, :], query.shape[1])
    inputs = (gradient[rows], query[rows], key, value, context[rows], log_sums[rows])
    query_part, key_part, value_part = _fused_backward(tuple(each.contiguous() for each in inputs), block.causal)
    query_gradient[rows] += query_part
    groups = keys_values.shape[2]
    for index, part in enumerate((key_part, value_part)):
        keys_values_gradient[index][:, :, block.keys] += part.unflatten(1, (groups, -1)).sum(2)


def _for_heads(keys_values: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for the query heads of their group."""
    repeats = num_heads // keys_values.shape[2]
    key, value = keys_values.unbind(0) if repeats == 1 else keys_values.repeat_interleave(repeats, dim=2).unbind(0)
    return key, value


def _fused(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Context and log-sum-exp by the device's fused kernel."""
    if query.device.type == "cpu":
        context, log_sums = _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
        return context, log_sums
    context, log_sums, *_ = _ATEN._scaled_dot_product_flash_attention(query, key, value, 0.0, causal)
    return context, log_sums


def _fused_backward(inputs: tuple[Tensor, ...], causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values by the device's fused kernel, which computes the scores again.

    `inputs`: gradient of the context, queries, keys, values, context and log-sum-exp.
    """
    query, key = inputs[1], inputs[2]
    if query.device.type == "cpu":
        found = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(*inputs, 0.0, causal)
    else:
        state = torch.zeros((), dtype=torch.uint64, device=query.device)  # without dropout nothing is drawn
        lengths = (None, None, query.shape[2], key.shape[2])
        found = _ATEN._scaled_dot_product_flash_attention_backward(*inputs, *lengths, 0.0, causal, state, state)
    gradients: tuple[Tensor, Tensor, Tensor] = found
    return gradients
