"""Attention as operations: grouped-query or latent, fused or with its scores in memory."""

import numpy as np

from planner.recompute import Module
from planner.work.blocks.context import ContextShard, merge_partial, pass_keys, trade_heads
from planner.work.blocks.shard import Shard, Step, enter, leave, norm, residual, within
from planner.work.ops import Attention, Gemm, Numbers
from profiles.model import TransformerShape
from profiles.units import DTYPE_BYTES

EAGER_ROTARY = 10.0
"""Reads and writes per 16-bit element of rotary positions without fusion: to fp32, a complex product, and back (2 + 4 +
4 + 4 + 4 + 2 bytes); halves that are swapped and added in 16 bits come to 11."""


def attention(model: TransformerShape, shard: Shard, *, causal: bool) -> list[Step]:
    """Norm, QKV projection, attention core, output projection, residual; heads are split over tp.

    Of the four products, recomputation by operators runs the second and the fourth again: keys and output.
    """
    hidden, dim = model.hidden_size, model.head_dim
    heads = model.num_heads / shard.tp
    kv_heads = np.maximum(model.num_kv_heads / shard.tp, 1.0)
    query, keys = heads * dim, kv_heads * dim
    turns = not model.num_learned_positions
    composes = turns and "rotary" in shard.stack.composed
    rotary = 0.0 if not turns or composes else 2.0 if shard.stack.fused_elementwise else EAGER_ROTARY
    layout = 2.0 if shard.stack.attention_kernel == "unfused" else 0.0
    permutes = shard.tokens * (query * (rotary + 2.0 * layout) + keys * (rotary + 2.0 * layout))
    return [
        *within(Module.LAYERNORM, [norm(shard, hidden)]),
        *enter(shard, hidden),
        *shard.adapted(hidden, query + 2.0 * keys, again_fraction=keys / (query + 2.0 * keys)),
        shard.traffic(permutes, 1.0, 1.25, 2.0),
        *([shard.composed(shard.tokens * (query + keys), "rotary")] if composes else []),
        *core(model, shard, heads, kv_heads, dim, dim, causal),
        shard.linear(query, hidden, again_fraction=1.0),
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
        up = within(Module.MLA_UP_PROJ, shard.adapted(mla.q_lora_rank, heads * query_dim))
        query = [shard.linear(hidden, mla.q_lora_rank), *up]
    else:
        query = shard.adapted(hidden, heads * query_dim)
    turned = shard.tokens * (heads * query_dim + expanded + mla.q_lora_rank + mla.kv_lora_rank)
    up = [*shard.adapted(mla.kv_lora_rank, expanded), shard.traffic(turned, 2.0, 2.5, 4.0)]
    return [
        *within(Module.LAYERNORM, [norm(shard, hidden)]),
        *enter(shard, hidden),
        *query,
        shard.linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim),
        *within(Module.MLA_UP_PROJ, up),
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
    """Scores, softmax and context of the rank's heads, with the messages of context parallelism around them."""
    context = ContextShard.of(shard, heads, kv_heads)
    key_length = keys_seen(model, shard.key_length) / context.ring_steps
    dtype = "bf16" if DTYPE_BYTES[shard.dtype] < shard.width else shard.dtype
    kernel: Attention | None = None
    if shard.stack.attention_kernel == "unfused":
        kernels = _unfused(shard, context, dim, value_dim, dtype)
    else:
        kernel = Attention(
            shard.sequences * context.ring_steps, context.heads, context.kv_heads, context.query_length, key_length,
            dim, value_dim, causal, shard.stack.attention_kernel, dtype, num_launches=context.ring_steps,
        )  # fmt: skip
        kernels = [Step.of(kernel, is_core=True)]
    return [
        *trade_heads(shard, heads * dim + kv_heads * (dim + value_dim)),
        *pass_keys(shard, context, context.kv_heads * (dim + value_dim), kernel),
        *kernels,
        merge_partial(shard, context, context.heads * value_dim, causal=causal),
        *trade_heads(shard, heads * value_dim),
    ]


def _unfused(shard: Shard, context: ContextShard, dim: Numbers, value_dim: Numbers, dtype: str) -> list[Step]:
    """Two batched products with softmax and dropout in memory between them."""
    batch, queries, keys = shard.sequences * context.heads, context.query_length, shard.key_length
    mask = 2.5 if shard.stack.dropout else 0.0
    softmax = shard.traffic(batch * queries * keys, 2.0 + mask, 3.0 + mask, 2.0)
    return [
        Step.of(Gemm(queries, keys, dim, batch, dtype), is_core=True),
        Step(softmax.op, softmax.backward, is_core=True),
        Step.of(Gemm(queries, value_dim, keys, batch, dtype), is_core=True),
    ]


def keys_seen(model: TransformerShape, length: Numbers) -> Numbers:
    """Key length with the pairs of an average layer: under a window w a sequence of s has s w - w^2 / 2 of them."""
    if model.sliding_window is None or model.sliding_window >= length:
        return length
    full = model.num_full_attention_layers / model.num_layers
    window = float(model.sliding_window)
    return full * length + (1.0 - full) * (2.0 * window - window**2 / length)
