"""Attention as operations: grouped-query or latent, fused or with its scores in memory."""

import numpy as np

from planner.work.blocks.context import exchange_keys
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual
from planner.work.ops import Attention, Gemm, Numbers
from profiles.model import TransformerShape


def attention(model: TransformerShape, shard: Shard, *, causal: bool) -> list[Step]:
    """Norm, QKV projection, attention core, output projection, residual; heads are split over tp."""
    hidden, dim = model.hidden_size, model.head_dim
    heads = model.num_heads / shard.tp
    kv_heads = np.maximum(model.num_kv_heads / shard.tp, 1.0)
    query, keys = heads * dim, kv_heads * dim
    rotary = 0.0 if model.num_learned_positions else 2.0
    layout = 2.0 if shard.stack.attention_kernel == "unfused" else 0.0
    permutes = shard.tokens * (query * (rotary + 2.0 * layout) + keys * (rotary + 2.0 * layout))
    return [
        norm(shard, hidden),
        *enter(shard, hidden),
        shard.linear(hidden, query + 2.0 * keys),
        shard.traffic(permutes, 1.0, 1.25, 2.0),
        *core(model, shard, heads, kv_heads, dim, dim, causal),
        shard.linear(query, hidden),
        *leave(shard, hidden),
        residual(shard, hidden),
    ]


def latent_attention(model: TransformerShape, shard: Shard, *, causal: bool) -> list[Step]:
    """Multi-head latent attention as trained, keys and values expanded [DeepSeek-V2 2024, arXiv:2405.04434, 2.1]."""
    mla, hidden = model.mla, model.hidden_size
    assert mla is not None
    heads = model.num_heads / shard.tp
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    expanded = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    if mla.q_lora_rank:
        query = [shard.linear(hidden, mla.q_lora_rank), shard.linear(mla.q_lora_rank, heads * query_dim)]
    else:
        query = [shard.linear(hidden, heads * query_dim)]
    return [
        norm(shard, hidden),
        *enter(shard, hidden),
        *query,
        shard.linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim),
        shard.linear(mla.kv_lora_rank, expanded),
        shard.traffic(
            shard.tokens * (heads * query_dim + expanded + mla.q_lora_rank + mla.kv_lora_rank), 2.0, 2.5, 4.0
        ),
        *core(model, shard, heads, heads, query_dim, mla.v_head_dim, causal),
        shard.linear(heads * mla.v_head_dim, hidden),
        *leave(shard, hidden),
        residual(shard, hidden),
    ]


def core(
    model: TransformerShape,
    shard: Shard,
    heads: Numbers,
    kv_heads: Numbers,
    dim: Numbers,
    value_dim: Numbers,
    causal: bool,
) -> list[Step]:
    """Scores, softmax and context: one fused kernel, or two batched products with the scores in memory."""
    keys = exchange_keys(shard, kv_heads * (dim + value_dim))
    key_length = keys_seen(model, shard.key_length)
    if shard.stack.attention_kernel != "unfused":
        dtype = "bf16" if shard.dtype == "fp8" else shard.dtype
        kernel = Attention(
            shard.sequences, heads, kv_heads, shard.query_length, key_length, dim, value_dim,
            causal, shard.stack.attention_kernel, dtype,
        )  # fmt: skip
        return [keys, Step.of(kernel, is_core=True)]
    batch, scores = shard.sequences * heads, shard.sequences * heads * shard.query_length * shard.key_length
    dtype = "bf16" if shard.dtype == "fp8" else shard.dtype
    mask = 2.5 if shard.stack.dropout else 0.0
    softmax = shard.traffic(scores, 2.0 + mask, 3.0 + mask, 2.0)
    return [
        keys,
        Step.of(Gemm(shard.query_length, shard.key_length, dim, batch, dtype), is_core=True),
        Step(softmax.op, softmax.backward, is_core=True),
        Step.of(Gemm(shard.query_length, value_dim, shard.key_length, batch, dtype), is_core=True),
    ]


def keys_seen(model: TransformerShape, length: Numbers) -> Numbers:
    """Key length with the pairs of an average layer: under a window w a sequence of s has s w - w^2 / 2 of them."""
    if model.sliding_window is None or model.sliding_window >= length:
        return length
    full = model.num_full_attention_layers / model.num_layers
    window = float(model.sliding_window)
    return full * length + (1.0 - full) * (2.0 * window - window**2 / length)
