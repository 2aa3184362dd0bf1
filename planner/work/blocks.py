"""The parts of a transformer layer as operations: attention, feed-forward, experts, embedding and head.

Tokens are those of one microbatch on one rank (over cp). Linear layers are split over tp as in Megatron-LM
[Shoeybi 2019, arXiv:1909.08053]: column-parallel into a part, row-parallel out of it, one all-reduce behind;
with sequence parallelism an all-gather before and a reduce-scatter behind [Korthikanti 2022,
arXiv:2205.05198, section 4.2.2]. Memory traffic of element-wise kernels counts every read and write once.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.work.ops import Attention, Elementwise, Gemm, Kernel, Message, Numbers, Op
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of the forward pass and those of its backward pass, run `count` times (0 or 1 by plan)."""

    op: Op
    backward: tuple[Op, ...] = ()
    count: Numbers = 1.0
    is_core: bool = False
    """Belongs to the attention core, which selective recomputation runs again."""

    @classmethod
    def of(cls, kernel: Kernel, *, is_core: bool = False) -> "Step":
        """A compute kernel with its own backward pass."""
        return cls(kernel, kernel.backward(), is_core=is_core)


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank sees of a microbatch, and how the stack runs it."""

    sequences: Numbers
    query_length: Numbers
    key_length: Numbers
    tp: Numbers
    cp: Numbers
    ep: Numbers
    sequence_parallel: Numbers
    dtype: str
    width: float
    """Bytes of one activation element."""
    stack: SoftwareStack

    @classmethod
    def of(cls, job: TrainingJob, split: Plan | PlanGrid, stack: SoftwareStack) -> "Shard":
        """The shard of one rank under `split`; degrees are floats so that products never overflow."""
        return cls(
            sequences=split.micro_batch * 1.0,
            query_length=job.sequence_length / (split.cp * 1.0),
            key_length=float(job.sequence_length),
            tp=split.tp * 1.0,
            cp=split.cp * 1.0,
            ep=split.ep * 1.0,
            sequence_parallel=split.sequence_parallel * 1.0,
            dtype=gemm_dtype(job),
            width=4.0 if job.precision == "fp32" else 2.0,
            stack=stack,
        )

    @property
    def tokens(self) -> Numbers:
        """Tokens of the microbatch on this rank."""
        return self.sequences * self.query_length

    @property
    def outside_tokens(self) -> Numbers:
        """Tokens outside the tensor-parallel parts: sharded over tp under sequence parallelism."""
        return self.tokens / np.where(self.sequence_parallel > 0, self.tp, 1.0)

    def linear(self, inputs: Numbers, outputs: Numbers, tokens: Numbers | None = None, batch: Numbers = 1.0) -> Step:
        """A linear layer of `inputs` x `outputs` features over the rank's tokens.

        Its weight gradient is added to what earlier microbatches left: by the product itself, or after it.
        """
        product = Gemm(self.tokens if tokens is None else tokens, outputs, inputs, batch, self.dtype)
        added = self.stack.accumulation_traffic_bytes_per_parameter * inputs * outputs
        data, weight = product.backward()
        if self.stack.fused_accumulation:
            return Step(product, (data, replace(weight, extra_bytes=added)))
        return Step(product, (data, weight, Elementwise(batch * added, in_place=True)))

    def traffic(self, elements: Numbers, forward: float, backward: float, launches: float = 1.0) -> Step:
        """A memory-bound kernel: element reads and writes per element of each direction."""
        scale = self.width * elements
        kernel = Elementwise(scale * forward, scale * backward, launches, launches)
        return Step.of(kernel)


def gemm_dtype(job: TrainingJob) -> str:
    """The format matrix products run in."""
    return job.precision


def parameters(model: TransformerShape, kind: str, split: Plan | PlanGrid) -> tuple[Any, Any]:
    """(parameters replicated over dp, expert parameters over ep) of one layer on one rank."""
    tp, none = split.tp * 1.0, 0.0 * split.tp
    hidden = model.hidden_size
    norm_size = hidden * (2 if model.norm == "layer_norm" else 1)
    if kind == "embedding":
        return (model.vocabulary_size / tp + model.num_learned_positions) * hidden + none, none
    if kind == "head":
        logits = model.vocabulary_size * hidden / tp
        if model.tied_embeddings:  # one copy while both ends lie on one stage, else the last stage has its own
            logits = logits * np.greater(split.pp, 1)
        return logits + norm_size + none, none
    attention = attention_parameters(model, tp)
    if model.num_encoder_layers and kind != "encoder":
        attention = 2.0 * attention + norm_size
    extra = model.num_extra_parameters / (model.num_layers + model.num_encoder_layers) / tp
    shared = attention + model.norms_per_layer * norm_size + extra
    if kind == "moe":
        assert model.moe is not None
        moe = model.moe
        expert = moe.num_experts * ffn_parameters(model, moe.expert_ffn_size, tp) / split.ep
        shared_expert = ffn_parameters(model, moe.shared_width, tp) if moe.shared_width else 0.0
        return shared + hidden * moe.num_experts + shared_expert, expert
    return shared + ffn_parameters(model, model.ffn_size, tp) + none, none


def attention_parameters(model: TransformerShape, tp: Numbers) -> Numbers:
    """Parameters of one attention part on one rank, without its norm."""
    hidden, heads = model.hidden_size, model.num_heads
    if model.mla is not None:
        mla = model.mla
        query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
        rank = mla.q_lora_rank
        queries = hidden * rank + rank + rank * heads * query_dim / tp if rank else hidden * heads * query_dim / tp
        latent = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank
        up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim) / tp
        return queries + latent + up + heads * mla.v_head_dim * hidden / tp
    query, keys = heads * model.head_dim, 2 * model.num_kv_heads * model.head_dim
    bias = (query + keys) / tp if model.qkv_bias or model.linear_bias else 0.0
    out_bias = hidden if model.linear_bias else 0.0
    qk_norm = 2 * model.head_dim if model.qk_norm else 0
    return (2.0 * hidden * query + hidden * keys) / tp + bias + out_bias + qk_norm


def ffn_parameters(model: TransformerShape, ffn_size: float, tp: Numbers) -> Numbers:
    """Parameters of one feed-forward part of width `ffn_size` on one rank."""
    matrices = 3 if model.gated_ffn else 2
    bias = (matrices - 1) * ffn_size / tp + model.hidden_size if model.linear_bias else 0.0
    return matrices * model.hidden_size * ffn_size / tp + bias


def _enter(shard: Shard, hidden: float) -> list[Step]:
    """Into a tensor-parallel part: gather the sequence (again for the weight gradient), or copy."""
    full = shard.width * shard.tokens * hidden
    gather, scatter = _tp("all_gather", full, shard), _tp("reduce_scatter", full, shard)
    reduce = _tp("all_reduce", full, shard)
    nothing = Elementwise(0.0, 0.0, 0.0, 0.0)
    return [
        Step(gather, (gather, scatter), shard.sequence_parallel),
        Step(nothing, (reduce,), 1.0 - shard.sequence_parallel),
    ]


def _leave(shard: Shard, hidden: float) -> list[Step]:
    """Out of a tensor-parallel part: sum the partial results."""
    full = shard.width * shard.tokens * hidden
    gather, scatter = _tp("all_gather", full, shard), _tp("reduce_scatter", full, shard)
    return [
        Step(scatter, (gather,), shard.sequence_parallel),
        Step(_tp("all_reduce", full, shard), (), 1.0 - shard.sequence_parallel),
    ]


def _tp(collective: str, num_bytes: Numbers, shard: Shard) -> Message:
    return Message("tp", collective, num_bytes, shard.stack.tp_exposed_fraction)


def _norm(shard: Shard, hidden: float) -> Step:
    """Read and write forward; read input and gradient, write gradient backward."""
    elements = shard.outside_tokens * hidden
    return shard.traffic(elements, 2.0, 3.0) if shard.stack.fused_elementwise else shard.traffic(elements, 4.0, 6.0)


def _residual(shard: Shard, hidden: float) -> Step:
    """Bias, dropout and residual add behind a part; a dropout mask is one byte an element."""
    elements = shard.outside_tokens * hidden
    mask = 0.5 if shard.stack.dropout else 0.0
    dropout_backward = 2.0 + mask if shard.stack.dropout else 0.0
    if shard.stack.fused_elementwise:
        return shard.traffic(elements, 3.0 + mask, 3.0 + dropout_backward)
    dropout_forward = 2.0 + mask if shard.stack.dropout else 0.0
    return shard.traffic(elements, 3.0 + dropout_forward, 3.0 + dropout_backward, 2.0)


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
        _norm(shard, hidden),
        *_enter(shard, hidden),
        shard.linear(hidden, query + 2.0 * keys),
        shard.traffic(permutes, 1.0, 1.25, 2.0),
        *_core(model, shard, heads, kv_heads, dim, dim, causal),
        shard.linear(query, hidden),
        *_leave(shard, hidden),
        _residual(shard, hidden),
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
        _norm(shard, hidden),
        *_enter(shard, hidden),
        *query,
        shard.linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim),
        shard.linear(mla.kv_lora_rank, expanded),
        shard.traffic(
            shard.tokens * (heads * query_dim + expanded + mla.q_lora_rank + mla.kv_lora_rank), 2.0, 2.5, 4.0
        ),
        *_core(model, shard, heads, heads, query_dim, mla.v_head_dim, causal),
        shard.linear(heads * mla.v_head_dim, hidden),
        *_leave(shard, hidden),
        _residual(shard, hidden),
    ]


def _core(
    model: TransformerShape,
    shard: Shard,
    heads: Numbers,
    kv_heads: Numbers,
    dim: float,
    value_dim: float,
    causal: bool,
) -> list[Step]:
    """Scores, softmax and context: one fused kernel, or two batched products with the scores in memory."""
    keys = _exchange_keys(shard, kv_heads * (dim + value_dim))
    key_length = _keys_seen(model, shard.key_length)
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


def _keys_seen(model: TransformerShape, length: float) -> float:
    """Key length with the pairs of an average layer: under a window w a sequence of s has s w - w^2 / 2 of them."""
    if model.sliding_window is None or model.sliding_window >= length:
        return length
    full = model.num_full_attention_layers / model.num_layers
    window = float(model.sliding_window)
    return full * length + (1.0 - full) * (2.0 * window - window**2 / length)


def _exchange_keys(shard: Shard, features: Numbers) -> Step:
    """Context parallelism: every rank sees all keys and values; their gradients are summed back."""
    num_bytes = shard.width * shard.sequences * shard.key_length * features
    gather = Message("cp", "all_gather", num_bytes)
    return Step(gather, (gather, Message("cp", "reduce_scatter", num_bytes)), 1.0 * (shard.cp > 1))


def _ffn(model: TransformerShape, shard: Shard, ffn: Numbers, tokens: Numbers, batch: Numbers = 1.0) -> list[Step]:
    """Up (and gate) projection, activation, down projection over `batch` groups of `tokens`."""
    gates = 2.0 if model.gated_ffn else 1.0
    fused = shard.stack.fused_elementwise
    forward, backward = gates + 1.0, 2.0 * gates + 1.0
    elements = batch * tokens * ffn
    return [
        shard.linear(model.hidden_size, gates * ffn, tokens, batch),
        shard.traffic(elements, forward if fused else forward + 2.0, backward if fused else backward + 2.0,
                      1.0 if fused else 2.0),
        shard.linear(ffn, model.hidden_size, tokens, batch),
    ]  # fmt: skip


def feed_forward(model: TransformerShape, shard: Shard) -> list[Step]:
    """Norm, feed-forward part, residual; the width is split over tp."""
    hidden = model.hidden_size
    return [
        _norm(shard, hidden),
        *_enter(shard, hidden),
        *_ffn(model, shard, model.ffn_size / shard.tp, shard.tokens),
        *_leave(shard, hidden),
        _residual(shard, hidden),
    ]


def mixture_of_experts(model: TransformerShape, shard: Shard) -> list[Step]:
    """Router, dispatch, grouped expert products, combine; experts are spread over ep, their width over tp.

    Under sequence parallelism each tp rank dispatches its own slice of the tokens, and the slices meet again
    inside the tp group at the experts. Tokens are taken as balanced over experts
    [Fedus 2021, arXiv:2101.03961, section 2.2].
    """
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    copies, sent = shard.tokens * moe.top_k, shard.outside_tokens * moe.top_k
    experts = moe.num_experts / shard.ep
    exchange = Message("ep", "all_to_all", shard.width * sent * hidden)
    move = Step(exchange, (exchange,), 1.0 * (shard.ep > 1))
    shared = []
    if moe.shared_width:
        shared = [
            *_enter(shard, hidden),
            *_ffn(model, shard, moe.shared_width / shard.tp, shard.tokens),
            *_leave(shard, hidden),
        ]
    return [
        _norm(shard, hidden),
        shard.linear(hidden, float(moe.num_experts), shard.outside_tokens),
        shard.traffic(sent * hidden, 2.0, 2.0),
        move,
        *_enter(shard, hidden * moe.top_k),
        *_ffn(model, shard, moe.expert_ffn_size / shard.tp, copies / experts, experts),
        *_leave(shard, hidden * moe.top_k),
        move,
        shard.traffic(sent * hidden, 2.0, 3.0),
        *shared,
        _residual(shard, hidden),
    ]


def embedding(model: TransformerShape, shard: Shard) -> list[Step]:
    """Look up the rows, sum over the vocabulary shards; backward adds rows into the weight gradient."""
    return [
        shard.traffic(shard.tokens * model.hidden_size, 2.0, 3.0),
        *_leave(shard, model.hidden_size),
    ]


def padded_vocabulary(model: TransformerShape, tp: Numbers, stack: SoftwareStack) -> Numbers:
    """Vocabulary rows on one rank: padded so that every tp rank holds a multiple of the stack's own."""
    multiple = float(stack.vocabulary_multiple)
    return np.ceil(model.vocabulary_size / (multiple * tp)) * multiple


def head(model: TransformerShape, shard: Shard, stack: SoftwareStack) -> list[Step]:
    """Final norm, logits over the padded vocabulary shard, cross-entropy in memory."""
    padded = padded_vocabulary(model, shard.tp, stack)
    logits = shard.tokens * padded
    loss = Elementwise(
        0.4 * stack.loss_traffic_bytes_per_logit * logits,
        0.6 * stack.loss_traffic_bytes_per_logit * logits,
        4.0,
        4.0,
    )
    return [
        _norm(shard, model.hidden_size),
        *_enter(shard, model.hidden_size),
        shard.linear(model.hidden_size, padded),
        Step.of(loss),
    ]
