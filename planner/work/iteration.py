"""One iteration of a served model as operations of one rank: what every layer does with the tokens of a batch.

An iteration mixes the tokens of prompts with one token of each running request. Linear layers see only how many
tokens there are; attention sees each context. Fields are floats or arrays that broadcast.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from planner.work.forms import OUTPUT_BYTES, form_of
from planner.work.ops import (
    Attention,
    DecodeAttention,
    Elementwise,
    ExpertLayer,
    Gemm,
    Kernel,
    Listed,
    Message,
    Numbers,
)
from profiles.engine import KernelKind
from profiles.model import TransformerShape


@dataclass(frozen=True, slots=True)
class ServedShard:
    """How a replica's ranks share a model, and in which formats they hold it.

    A replica has tp * attention_dp ranks a stage: each of `attention_dp` groups serves requests of its own with its
    attention split over tp; the experts are spread over `ep` of all those ranks, their width over the rest.
    """

    tp: float = 1.0
    attention_dp: float = 1.0
    ep: float = 1.0
    pp: float = 1.0
    library: str = "vllm"
    """Whose kernels run (`profiles.libraries`)."""
    weights: str = "bf16"
    """Form of linear layers outside of experts (`planner.work.forms`)."""
    expert_weights: str = ""
    """Form of the experts; "": as `weights`."""
    kv_dtype: str = "bf16"
    borrowed: Mapping[str, str] = field(default_factory=dict)
    """Kind and form of kernels, as "experts nvfp4" -> the library they are taken from in place of `library`."""
    decode_kernels: Mapping[str, str] = field(default_factory=dict)
    """As `borrowed`: another choice of iterations that only decode."""
    time_factors: Mapping[KernelKind, float] = field(default_factory=dict)
    """Kind of kernel -> its time over the price of its library."""
    ignores_windows: bool = False
    """Layers with a sliding window attend to the whole context too."""
    routing_skew: float = 0.0
    """Exponent of the power law by which experts are chosen; 0: all alike."""
    latent_as_cached: tuple[KernelKind, ...] = ()
    """Which attention over latents multiplies in the form of the cache ("prefill", "decode"); others in 16 bits."""

    @property
    def key(self) -> tuple[object, ...]:
        """All of it, to look things up by."""
        degrees = (self.tp, self.attention_dp, self.ep, self.pp)
        forms = (self.library, self.weights, self.expert_form, self.kv_dtype, *sorted(self.borrowed.items()))
        libraries = (*sorted(self.decode_kernels.items()), *sorted(self.time_factors.items()))
        return (*degrees, *forms, *libraries, self.ignores_windows, self.routing_skew, *self.latent_as_cached)

    @property
    def ranks(self) -> float:
        """Ranks of one stage."""
        return self.tp * self.attention_dp

    @property
    def expert_tp(self) -> float:
        """Ranks that share the width of an expert."""
        return self.ranks / self.ep

    def library_of(self, kind: str, form: str) -> str:
        """Whose kernel a product ("gemm") or mixture ("experts") of a form runs."""
        return self.borrowed.get(f"{kind} {form}", self.library)

    @property
    def expert_form(self) -> str:
        """Form of the experts."""
        return self.expert_weights or self.weights

    @property
    def feed_forward_form(self) -> str:
        """Form of shared experts and of feed-forward layers without experts."""
        return self.expert_form if self.expert_form in _WITH_EXPERTS else self.weights

    def output_form(self, model: TransformerShape) -> str:
        """Form of the projection out of attention."""
        return self.feed_forward_form if model.mla else self.weights


_WITH_EXPERTS = ("nvfp4",)
"""Forms that checkpoints give, with their experts, to all feed-forward layers and to the projection out of latent
attention [NVIDIA/Model-Optimizer, examples/deepseek/ptq.py, and the card of nvidia/DeepSeek-R1-0528-FP4-v2: all but
heads, routers and the way into attention]. Their tokens travel quantised between groups of attention data parallelism,
as they are quantised before experts in any case [NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/modules/fused_moe]."""


class Repeated(NamedTuple):
    """An operation, and how often an iteration runs it on one rank."""

    op: Kernel | Message
    times: float


def linear_ops(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Repeated]:
    """Everything between embedding and head but attention itself and what is routed, for `tokens` of an attention
    group: of the one that has most, which the others wait for."""
    layers = model.num_layers / shard.pp
    sparse = sum(model.is_sparse_layer) / shard.pp
    attentive = model.num_full_attention_layers / shard.pp if model.linear_attention else layers
    yield from (Repeated(op, attentive) for op in _projections(model, shard, tokens))
    yield from (Repeated(op, layers - attentive) for op in _linear_projections(model, shard, tokens))
    yield Repeated(_passes(tokens * model.hidden_size, 8.0), 2.0 * layers)
    if layers > sparse:
        yield from (Repeated(op, layers - sparse) for op in _feed_forward(model, shard, float(model.ffn_size), tokens))
    if sparse:
        yield from (Repeated(op, sparse) for op in _beside_experts(model, shard, tokens))
    yield Repeated(_reduction(model, shard, tokens, shard.tp), layers)
    yield Repeated(_reduction(model, shard, tokens, shard.tp), layers - sparse)


def routed_ops(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Repeated]:
    """Experts and the exchange around them, for `tokens` of each attention group on average."""
    sparse = sum(model.is_sparse_layer) / shard.pp
    if sparse:
        yield from (Repeated(op, sparse) for op in _experts(model, shard, tokens))


def head_ops(model: TransformerShape, shard: ServedShard, sequences: Numbers) -> Iterator[Repeated]:
    """Logits of one token of each of `sequences` (an attention group's), split over tp, gathered to be sampled."""
    columns = model.vocabulary_size / shard.tp
    yield Repeated(Gemm(sequences, columns, model.hidden_size, library=shard.library, form="bf16"), 1.0)
    yield Repeated(_passes(sequences * model.vocabulary_size, 8.0), 1.0)
    gathered = OUTPUT_BYTES * sequences * model.vocabulary_size
    yield Repeated(Message("tp", "all_gather", np.where(shard.tp > 1.0, gathered, 0.0)), 1.0)


def prefill_ops(
    model: TransformerShape, shard: ServedShard, new_tokens: Numbers, past_tokens: Numbers
) -> Iterator[Repeated]:
    """Attention of one prompt's `new_tokens` over themselves and `past_tokens` computed before."""
    heads, kv_heads = served_heads(model, shard)
    dim = float(model.head_dim)
    value_dim = float(model.mla.v_head_dim) if model.mla else dim
    if model.mla:
        kv_heads = heads
    prompt_dtype = _latent_dtype(shard, "prefill") if model.mla else shard.kv_dtype
    if model.linear_attention:
        yield _state_pass(model, shard, np.ceil(new_tokens / LINEAR_ATTENTION_PIECE))
    for layers, window in _layers_by_window(model, shard):
        op = Attention(
            1.0, heads, kv_heads, new_tokens, new_tokens + past_tokens, dim, value_dim, past_length=past_tokens,
            window_length=window, library=shard.library, kv_dtype=prompt_dtype,
        )  # fmt: skip
        yield Repeated(op, layers)
    if model.mla:  # keys and values of the past are expanded again from the latents
        expanded = heads * (model.mla.qk_nope_head_dim + model.mla.v_head_dim)
        again = Gemm(np.maximum(past_tokens, 1.0), expanded, float(model.mla.kv_lora_rank),
                     library=shard.library, form="bf16")  # fmt: skip
        yield Repeated(again, np.where(np.greater(past_tokens, 0.0), model.num_layers / shard.pp, 0.0))  # type: ignore[arg-type]


def decode_ops(
    model: TransformerShape, shard: ServedShard, sequences: Numbers, context_tokens: Numbers
) -> Iterator[Repeated]:
    """Attention of one new token of each of `sequences` over a mean context of `context_tokens`.

    Latent attention reads the latents themselves, one key head of rank and rotary dimensions for all query heads
    [DeepSeek-V2 2024, arXiv:2405.04434, 2.1.2]; the products that absorb the expansion are among the projections.
    """
    heads, kv_heads = served_heads(model, shard)
    dims = (float(model.head_dim), float(model.head_dim))
    if model.mla:
        kv_heads, latent = 1.0, float(model.mla.kv_lora_rank + model.mla.qk_rope_head_dim)
        dims = (0.5 * latent, 0.5 * latent)
        beyond = 2.0 * (latent + model.mla.kv_lora_rank) * max(heads - _TABLED_HEADS, 0.0)
        beside = Listed(sequences * context_tokens * beyond, 0.0, _latent_dtype(shard, "decode"), num_launches=0.0)
        yield Repeated(beside, model.num_layers / shard.pp)
        heads = min(heads, _TABLED_HEADS)
    if model.linear_attention:
        yield _state_pass(model, shard, sequences)
    for layers, window in _layers_by_window(model, shard):
        op = DecodeAttention(
            sequences, heads, kv_heads, context_tokens, *dims, library=shard.library,
            kv_dtype=shard.kv_dtype, window_length=window,
        )  # fmt: skip
        yield Repeated(op, layers)


_TABLED_HEADS = 16.0
"""Query heads that share one key head in the tables of decode kernels, at most. Latent attention has more; what they
multiply beyond that runs at the rate of products [DeepSeek FlashMLA, github.com/deepseek-ai/FlashMLA: 660 TFLOP/s on
H800 where it is compute bound]."""


def num_messages(model: TransformerShape, shard: ServedShard) -> float:
    """Collectives between the ranks of a stage that an iteration waits for."""
    if shard.ranks <= 1.0:
        return 0.0
    layers, sparse = model.num_layers / shard.pp, sum(model.is_sparse_layer) / shard.pp
    after_attention = layers * (shard.tp > 1.0)
    exchanges = 2.0 if shard.attention_dp > 1.0 else 1.0
    return after_attention + (layers - sparse) * (shard.tp > 1.0) + sparse * exchanges


def num_launches(model: TransformerShape, shard: ServedShard) -> float:
    """Kernels and messages that the host of one rank launches for an iteration that only decodes."""
    ops = (
        *linear_ops(model, shard, 1.0), *routed_ops(model, shard, 1.0), *decode_ops(model, shard, 1.0, 1.0),
        *head_ops(model, shard, 1.0),
    )  # fmt: skip
    launched = ((op, times) for op, times in ops if not isinstance(op, Message) or shard.ranks > 1.0)
    return float(sum(times * (1.0 if isinstance(op, Message) else op.num_launches) for op, times in launched))


def _latent_dtype(shard: ServedShard, phase: KernelKind) -> str:
    return shard.kv_dtype if phase in shard.latent_as_cached else "bf16"


_LAUNCHES_OF_PIECES = 7.0
"""Kernels of a layer of linear attention that prompts need and single tokens do not: decay sums, products of keys,
their triangular inverse, weights and values, states, outputs, norms of queries and keys; a step fuses them into one
[Yang 2024, arXiv:2412.06464, section 3.3; fla-org/flash-linear-attention, chunk_gated_delta_rule]."""


def num_prompt_launches(model: TransformerShape, shard: ServedShard) -> float:
    """Kernels and collectives that the host of one rank launches for an iteration with prompts."""
    linear = model.num_layers - model.num_full_attention_layers if model.linear_attention else 0
    return num_launches(model, shard) + _LAUNCHES_OF_PIECES * linear / shard.pp


def served_heads(model: TransformerShape, shard: ServedShard) -> tuple[float, float]:
    """Query heads and key heads of one rank."""
    return model.num_heads / shard.tp, max(model.num_kv_heads / shard.tp, 1.0)


def num_whole_layers(model: TransformerShape, shard: ServedShard) -> int:
    """Layers that attend to the whole context."""
    if shard.ignores_windows and not model.linear_attention:
        return model.num_layers
    return model.num_full_attention_layers


def _layers_by_window(model: TransformerShape, shard: ServedShard) -> Iterator[tuple[float, float | None]]:
    full = num_whole_layers(model, shard)
    if full:
        yield full / shard.pp, None
    if full < model.num_layers and not model.linear_attention:
        yield (model.num_layers - full) / shard.pp, float(model.sliding_window or 0)


LINEAR_ATTENTION_PIECE = 64.0
"""Tokens of a prompt after which a state is written [Yang 2024, arXiv:2406.06484, section 3.2: chunks of 64]."""
_STATE_BYTES = 4.0
"""States are kept in 32 bits (mamba_ssm_dtype of published configs)."""


def _state_pass(model: TransformerShape, shard: ServedShard, times: Numbers) -> Repeated:
    """States of linear attention, read and written `times` over."""
    linear, layers = model.linear_attention, model.num_layers - model.num_full_attention_layers
    assert linear
    return Repeated(_passes(times * linear.state_elements / shard.tp, 2.0 * _STATE_BYTES), layers / shard.pp)


def _passes(elements: Numbers, num_bytes: float) -> Elementwise:
    """A fused memory-bound kernel that moves `num_bytes` an element."""
    return Elementwise(num_bytes * elements)


def _linear(shard: ServedShard, tokens: Numbers, inputs: float, outputs: float, form: str = "") -> Gemm:
    form = form or shard.weights
    library = shard.library_of("gemm", form)
    return Gemm(tokens, outputs, inputs, dtype=form_of(form).dtype, library=library, form=form)


def _projections(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Kernel]:
    """Into attention and out of it, rotary positions and the write of keys and values."""
    heads, kv_heads = served_heads(model, shard)
    hidden = float(model.hidden_size)
    if model.mla is None:
        query, keys = heads * model.head_dim, kv_heads * model.head_dim
        gate = query if model.gated_attention else 0.0
        yield _linear(shard, tokens, hidden, query + gate + 2.0 * keys)
        yield _passes(tokens * (query + 2.0 * keys), 4.0)
        yield _linear(shard, tokens, query, hidden)
        return
    mla = model.mla
    down = float(mla.q_lora_rank + mla.kv_lora_rank + mla.qk_rope_head_dim)
    yield _linear(shard, tokens, hidden, down)
    if mla.q_lora_rank:
        yield _linear(shard, tokens, float(mla.q_lora_rank), heads * model.head_dim)
    yield _passes(tokens * (down + heads * model.head_dim), 4.0)
    for wide in (mla.qk_nope_head_dim, mla.v_head_dim):  # absorbed into queries and out of the attended latents
        yield Gemm(tokens, float(mla.kv_lora_rank), float(wide), batch=heads, library=shard.library, form="bf16")
    yield _linear(shard, tokens, heads * mla.v_head_dim, hidden, shard.output_form(model))


def _linear_projections(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Kernel]:
    """Into linear attention and out of it, with a short convolution of queries, keys and values and the output's gate
    [Yang 2024, arXiv:2412.06464, section 3.4]."""
    linear = model.linear_attention
    if linear is None:
        return
    values = linear.num_value_heads * linear.value_head_dim / shard.tp
    yield _linear(shard, tokens, float(model.hidden_size), linear.num_weights_per_input / shard.tp)
    yield _passes(tokens * linear.mixed_width / shard.tp, 4.0)
    yield _passes(tokens * values, 6.0)
    yield _linear(shard, tokens, values, float(model.hidden_size))


def _feed_forward(model: TransformerShape, shard: ServedShard, width: float, tokens: Numbers) -> Iterator[Kernel]:
    gates = 2.0 if model.gated_ffn else 1.0
    own, form = width / shard.tp, shard.feed_forward_form if model.moe else shard.weights
    yield _linear(shard, tokens, float(model.hidden_size), gates * own, form)
    yield _passes(tokens * own, 2.0 * (gates + 1.0))
    yield _linear(shard, tokens, own, float(model.hidden_size), form)


def _beside_experts(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Kernel]:
    """The router, and experts that every token meets."""
    moe = model.moe
    assert moe is not None
    yield Gemm(tokens, float(moe.num_experts), float(model.hidden_size), library=shard.library, form="bf16")
    if moe.shared_width:
        yield from _feed_forward(model, shard, float(moe.shared_width), tokens)


def _experts(model: TransformerShape, shard: ServedShard, tokens: Numbers) -> Iterator[Kernel | Message]:
    """Experts with the exchange around them.

    Without attention data parallelism every rank has every token, and partial results are summed by one all-reduce.
    With it, tokens of all groups are gathered and results scattered back; or, over more ranks than a token has experts,
    each is sent to the ranks that it needs alone [NVIDIA/TensorRT-LLM docs, tech blog 4 "Scaling Expert Parallelism",
    2025: all-to-all where ep > top_k].
    """
    moe, hidden = model.moe, float(model.hidden_size)
    assert moe is not None
    met = tokens * shard.attention_dp
    rows = np.maximum(met * moe.top_k / shard.ep, 1.0)
    dispatches = shard.attention_dp > 1.0 and shard.ep > moe.top_k
    reached = 1.0 - (1.0 - 1.0 / shard.ep) ** moe.top_k if dispatches else 1.0
    yield ExpertLayer(
        tokens=met * reached, rows=rows, hidden=hidden,
        width=moe.expert_ffn_size / shard.expert_tp, experts=moe.num_experts / shard.ep,
        library=shard.library_of("experts", shard.expert_form), form=shard.expert_form,
        num_matrices=3.0 if model.gated_ffn else 2.0, skew=shard.routing_skew,
    )  # fmt: skip
    if dispatches:
        copies = tokens * shard.ep * reached * hidden
        yield Message("ep", "all_to_all", form_of(shard.expert_form).activation_bytes * copies)
        yield Message("ep", "all_to_all", OUTPUT_BYTES * copies)
    elif shard.attention_dp > 1.0:
        gathered = form_of(shard.expert_form).activation_bytes if shard.expert_form in _WITH_EXPERTS else OUTPUT_BYTES
        yield Message("ep", "all_gather", gathered * met * hidden)
        yield Message("ep", "reduce_scatter", OUTPUT_BYTES * met * hidden)
    else:
        yield _reduction(model, shard, tokens, shard.ranks)


def _reduction(model: TransformerShape, shard: ServedShard, tokens: Numbers, size: float) -> Message:
    num_bytes = OUTPUT_BYTES * tokens * model.hidden_size
    return Message("tp", "all_reduce", np.where(size > 1.0, num_bytes, 0.0))
