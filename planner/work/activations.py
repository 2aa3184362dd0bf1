"""What a microbatch leaves in memory between its forward and its backward pass, tensor by tensor.

A layer is a list of `Saved` tensors; a recomputation policy is the set of those it keeps, so that every
byte can be printed. The lists follow Megatron-LM with fused kernels: [Korthikanti 2022, arXiv:2205.05198, 4]
for the GPT layer (34 s b h + 5 a s^2 b), checked for gated, grouped-query, latent-attention and sparse layers
against allocator readings of eight-device runs (MooreThreads/SimuMax@4dcaae513b docs/b200).
"""

from dataclasses import replace

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.recompute import Module
from planner.work.blocks import Shard
from planner.work.kinds import ENDS, recomputed_fraction
from planner.work.ops import Numbers
from planner.work.saved import Policy, Saved
from profiles.model import LayerList, TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

FLOAT_BYTES = 4.0
"""Bytes of what is kept in fp32 whatever the precision (softmax statistics)."""


def saved_tensors(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> tuple[Saved, ...]:
    """The tensors one layer of `kind` keeps of one microbatch on one rank, before recomputation drops any.

    Tensors between tensor-parallel parts are whole on every tp rank, or sharded with sequence parallelism;
    those inside are sharded by heads or width [Korthikanti 2022, arXiv:2205.05198, table 2].
    """
    model = job.model
    if isinstance(model, LayerList):
        return _listed(model, int(kind.removeprefix("layer-")), split)
    shard = Shard.of(job, split, stack)
    if kind == "embedding":
        return _mask(shard, model, "embedding dropout mask")
    if kind == "head":
        outside = shard.width * shard.outside_tokens * model.hidden_size
        read = _as_read(model, shard, shard.width)
        normed = _normalised(shard, outside, ("final norm input", Module.NOTHING))
        return (Saved("final norm input", outside, is_input=True), *normed, Saved("logits input", read, is_input=True))
    if kind == "mtp":
        outside = 2.0 * shard.width * shard.outside_tokens * model.hidden_size
        return (
            Saved("output and embedding before their norms", outside, is_input=True),
            Saved("projection input", 2.0 * _as_read(model, shard, shard.kept_product_bytes), is_input=True),
            *saved_tensors(job, "head", split, stack),
        )
    attention = _latent_attention(model, shard) if model.mla else _attention(model, shard)
    cross = _cross_attention(model, shard) if model.num_encoder_layers and kind != "encoder" else ()
    feed_forward = _experts(model, shard) if kind == "moe" else _feed_forward(model, shard)
    return (*_norms(model, shard, kind), *attention, *cross, *feed_forward)


def saved_bytes(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> Numbers:
    """Bytes of one layer of `kind` that one microbatch keeps on one rank under the split's recomputation."""
    policy = policy_of(job, kind, split)
    return sum((tensor.kept_bytes(policy) for tensor in saved_tensors(job, kind, split, stack)), 0.0 * split.tp)


def recomputed_bytes(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> Numbers:
    """Bytes that come back to life while the backward pass of one layer computes them again."""
    policy = policy_of(job, kind, split)
    return sum((tensor.recomputed_bytes(policy) for tensor in saved_tensors(job, kind, split, stack)), 0.0 * split.tp)


def policy_of(job: TrainingJob, kind: str, split: Plan | PlanGrid) -> Policy:
    """The recomputation of a layer of `kind`: the embedding and the head are never computed again."""
    if kind in ENDS:
        return Policy.none(split)
    return Policy.of(split, recomputed_fraction(job.model, split))


def _listed(model: LayerList, index: int, split: Plan | PlanGrid) -> tuple[Saved, ...]:
    """A listed layer keeps its input (the output before it, the batch itself for the first) and the rest."""
    layer, samples = model.layers[index], split.micro_batch * 1.0
    before = model.layers[index - 1].output_bytes if index else 0.0
    given = min(before, layer.saved_activation_bytes)
    return (
        Saved("layer input", samples * given, is_input=True),
        Saved("layer internals", samples * (layer.saved_activation_bytes - given)),
    )


def _mask(shard: Shard, model: TransformerShape, name: str) -> tuple[Saved, ...]:
    """The one-byte dropout mask of a tensor between parts."""
    return (Saved(name, shard.outside_tokens * model.hidden_size),) if shard.stack.dropout else ()


def _as_read(model: TransformerShape, shard: Shard, width: float) -> Numbers:
    """The input of a tensor-parallel part: kept sharded if it is gathered again, else as the part reads it."""
    tokens = shard.outside_tokens if shard.stack.regathers_inputs else shard.tokens
    return width * tokens * model.hidden_size


def _product_copy(shard: Shard, num_bytes: Numbers) -> tuple[Saved, ...]:
    """The narrow copy that the product behind attention keeps of its input, which attention keeps too."""
    if shard.kept_product_bytes == shard.width:
        return ()
    return (Saved("attention output as its product reads it", num_bytes * shard.kept_product_bytes / shard.width),)


def _norms(model: TransformerShape, shard: Shard, kind: str) -> tuple[Saved, ...]:
    """Inputs and outputs of the norms, one per attention and feed-forward part unless both share one.

    A layer's input is the checkpoint that full recomputation keeps. Norms behind a part keep their input. Outputs of
    norms are kept whole where the stack does not gather them again. Recomputation by operators keeps the product of
    the feed-forward part, though nothing reads it again.
    """
    outside = shard.width * shard.outside_tokens * model.hidden_size
    read = _as_read(model, shard, shard.kept_product_bytes)
    tensors = [Saved("layer input", outside, is_input=True), Saved("attention norm output", read, Module.LAYERNORM)]
    if model.norms_per_layer >= 2:
        routed = kind == "moe"  # router and experts read it in 16 bits, as it is sharded
        modules = Module.LAYERNORM if routed else Module.LAYERNORM | Module.MLP
        normed = outside if routed else _as_read(model, shard, shard.kept_product_bytes)
        tensors += [Saved("residual", outside), Saved("feed-forward norm output", normed, modules)]
    names = ("attention norm input", Module.LAYERNORM), ("feed-forward norm input", Module.LAYERNORM | Module.MLP)
    tensors += _normalised(shard, outside, *names[: model.norms_per_layer])
    tensors.append(Saved("feed-forward product", outside, operators_fraction=1.0, only_operators=True))
    tensors += [Saved(f"post-norm input {index}", outside) for index in range(model.norms_per_layer - 2)]
    return tuple(tensors)


def _normalised(shard: Shard, outside: Numbers, *norms: tuple[str, Module]) -> tuple[Saved, ...]:
    """What norms put together from small kernels keep besides: their input normalised, which the product with the
    weight reads; in mixed precision in fp32, and the input in fp32 in place of the narrower one."""
    if shard.norm not in shard.stack.composed:
        return ()
    mixed = 1.0 if shard.width == FLOAT_BYTES else (2.0 * FLOAT_BYTES - shard.width) / shard.width
    return tuple(Saved(f"{name}, normalised", mixed * outside, modules) for name, modules in norms)


def _attention(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Queries, keys and values as the core reads them, its statistics or scores, and its output."""
    query = shard.width * shard.tokens * model.num_heads * model.head_dim / shard.tp
    kv_heads = np.maximum(model.num_kv_heads / shard.tp, 1.0)
    keys = shard.width * shard.sequences * shard.query_length * kv_heads * model.head_dim
    before_norm = (Saved("queries and keys before their norm", query + keys),) if model.qk_norm else ()
    return (
        *before_norm,
        Saved("queries", query, operators_fraction=1.0),
        Saved("keys", keys),
        Saved("values", keys, operators_fraction=1.0),
        *_core(model, shard),
        Saved("attention output", query, operators_fraction=1.0),
        *_product_copy(shard, query),
        *_traded(shard, query),
        *_packed(model, shard, query, keys),
        *_mask(shard, model, "attention dropout mask"),
    )


def _packed(model: TransformerShape, shard: Shard, query: Numbers, keys: Numbers) -> tuple[Saved, ...]:
    """What one packed product of queries, keys and values keeps beside their copies, if parts of it are read as views.

    Turned queries and keys are copies, and values keep the packed product alive; a ring joins keys and values, and
    queries that are not turned keep it. What all-to-all exchanges are copies of everything; packed again, they stay.
    Copies lie head by head, and so does the output, which is copied again for the product behind it.
    """
    composed = shard.stack.composed
    turns = not model.num_learned_positions and "rotary" in composed
    in_ring = np.greater(shard.cp, shard.cp_a2a) & ("ring" in composed)
    traded = np.greater(shard.cp_a2a, 1.0)
    beside = np.where(np.logical_or(in_ring, traded), 0.0, turns * (query + keys))
    joined = np.where(in_ring & (traded | (not turns)), 2.0 * keys, 0.0)
    angles = turns * shard.width * shard.query_length * model.head_dim
    return (
        Saved("packed queries, keys and values beside their copies", beside + joined),
        Saved("cosines and sines", angles),
        Saved("attention output by head", np.where(traded, 0.0, turns * query), Module.CORE_ATTN),
    )


def _cross_attention(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Attention to the encoder's output: the same tensors again with their own norm."""
    outside = shard.width * shard.outside_tokens * model.hidden_size
    tensors = (
        Saved("residual", outside),
        Saved("norm output", outside),
        Saved("encoder output", outside),
        *_attention(model, shard),
    )
    return tuple(replace(tensor, name=f"cross-attention {tensor.name}") for tensor in tensors)


def _traded(shard: Shard, output_bytes: Numbers) -> tuple[Saved, ...]:
    """All-to-all context parallelism keeps the attention output before the exchange beside the one after it."""
    traded = np.where(shard.cp_a2a > 1.0, output_bytes, 0.0)
    return (Saved("attention output before the exchange", traded, operators_fraction=1.0),)


def _core(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """What the attention core keeps: fp32 log-sum-exp if fused, else the scores' softmax and dropout.

    Unfused: softmax (2 bytes), dropout mask (1) and dropped-out softmax (2), 5 a s^2 b
    [Korthikanti 2022, arXiv:2205.05198, section 4.1].
    """
    heads = model.num_heads / shard.tp
    if shard.stack.attention_kernel != "unfused":
        statistics = FLOAT_BYTES * shard.tokens * heads
        return (Saved("softmax statistics", statistics, Module.CORE_ATTN, operators_fraction=1.0),)
    scores = shard.tokens * heads * shard.key_length
    softmax = Saved("softmax", shard.width * scores, Module.CORE_ATTN)
    if not shard.stack.dropout:
        return (softmax,)
    return (
        softmax,
        Saved("softmax dropout mask", scores, Module.CORE_ATTN),
        Saved("dropped-out softmax", shard.width * scores, Module.CORE_ATTN),
    )


def _latent_attention(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Multi-head latent attention: latents before and after their norms, then keys and values expanded.

    Training keeps the expanded tensors, so latents save nothing here [DeepSeek-V2 2024, arXiv:2405.04434, 2.1].
    """
    mla, heads = model.mla, model.num_heads / shard.tp
    assert mla is not None
    outside, inside = shard.width * shard.outside_tokens, shard.width * shard.tokens * heads
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    normed = shard.kept_product_bytes * shard.outside_tokens
    return (
        Saved("query latents", (outside + normed) * mla.q_lora_rank),
        Saved("key-value latents", (outside + normed) * mla.kv_lora_rank + outside * mla.qk_rope_head_dim),
        Saved("queries", inside * query_dim, Module.MLA_UP_PROJ, operators_fraction=1.0),
        Saved("keys", inside * query_dim, Module.MLA_UP_PROJ),
        Saved("values", inside * mla.v_head_dim, Module.MLA_UP_PROJ, operators_fraction=1.0),
        *_core(model, shard),
        Saved("attention output", inside * mla.v_head_dim, operators_fraction=1.0),
        *_product_copy(shard, inside * mla.v_head_dim),
        *_traded(shard, inside * mla.v_head_dim),
        *_mask(shard, model, "attention dropout mask"),
    )


def _inner(
    model: TransformerShape, shard: Shard, elements: Numbers, name: str, modules: Module, act: Module = Module.NOTHING
) -> tuple[Saved, ...]:
    """Around an activation of `elements` outputs: its input (gate and up if gated) and its output.

    A gated activation that is not fused keeps the activated gate besides. Of gate and up, recomputation by
    operators keeps one.
    """
    gates = 2.0 if model.gated_ffn else 1.0
    unfused = Saved(f"{name} activated gate", shard.width * elements, modules)
    return (
        Saved(
            f"{name} activation input", gates * shard.kept_act_bytes * elements, modules, operators_fraction=1.0 / gates
        ),
        *((unfused,) if model.gated_ffn and shard.keeps_gate else ()),
        Saved(f"{name} activation output", shard.kept_product_bytes * elements, modules | act),
    )


def _feed_forward(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    elements = shard.tokens * model.ffn_size / shard.tp
    return (
        *_inner(model, shard, elements, "feed-forward", Module.MLP),
        *_mask(shard, model, "feed-forward dropout mask"),
    )


def _experts(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Each token's copies as the experts receive them and around their activation, and the shared expert.

    Balanced over experts; copies are whole on every etp rank, their width is sharded.
    """
    moe = model.moe
    assert moe is not None
    copies = shard.expert_tokens * moe.top_k
    inside = copies * moe.expert_ffn_size / shard.etp
    shared = shard.tokens * moe.shared_width / shard.tp
    both = Module.MOE | Module.SHARED_EXPERTS
    apart = np.logical_and(shard.outside_tokens < shard.tokens, not shard.stack.regathers_inputs)
    gathered = np.where(apart, _as_read(model, shard, shard.kept_product_bytes), 0.0)
    return (
        Saved("expert input", shard.kept_product_bytes * copies * model.hidden_size, Module.MOE),
        *_inner(model, shard, inside, "expert", Module.MOE, Module.MOE_ACT),
        *((Saved("shared expert input", gathered, both),) if moe.shared_width else ()),
        *(_inner(model, shard, shared, "shared expert", both) if moe.shared_width else ()),
        *_mask(shard, model, "feed-forward dropout mask"),
    )


def transient_bytes(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> Numbers:
    """Bytes alive only while one layer of `kind` runs its backward pass, besides its kept and recomputed ones.

    The widest of: the gradient before the activation with those of the layer's input (gathered under tp);
    the gradients of unfused scores; about four copies of each token on its way through the experts (dispatch
    and combine, both ways). Read off allocator peaks (MooreThreads/SimuMax@4dcaae513b docs/b200).
    """
    model = job.model
    if isinstance(model, LayerList):
        return 2.0 * split.micro_batch * model.layers[int(kind.removeprefix("layer-"))].output_bytes
    shard = Shard.of(job, split, stack)
    if kind == "embedding":
        return 0.0 * shard.tokens
    hidden = shard.width * shard.tokens * model.hidden_size
    if kind in ENDS:
        gathered = np.logical_and(shard.tp > 1.0, shard.sequence_parallel > 0.0)
        return hidden * np.where(gathered, 2.0 + 1.0 / shard.tp, 1.0)
    gates = 2.0 if model.gated_ffn else 1.0
    if kind == "moe":
        assert model.moe is not None
        copies = shard.expert_tokens * model.moe.top_k
        width = gates * model.moe.expert_ffn_size / shard.etp + 4.0 * model.hidden_size
        return shard.width * copies * width
    inner = gates * shard.width * shard.tokens * model.ffn_size / shard.tp
    whole = hidden * np.where(shard.tp > 1.0, 1.0 / shard.tp + 1.0, 1.0)
    scores = 2.0 * shard.width * shard.tokens * model.num_heads / shard.tp * shard.key_length
    return np.maximum(inner + whole, scores if stack.attention_kernel == "unfused" else 0.0)
