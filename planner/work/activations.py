"""What a microbatch leaves in memory between its forward and its backward pass, tensor by tensor.

A layer is a list of `Saved` tensors; a recomputation policy is the set of those it keeps, so that every
byte can be printed. The lists follow Megatron-LM with fused kernels: [Korthikanti 2022, arXiv:2205.05198, 4]
for the GPT layer (34 s b h + 5 a s^2 b), checked for gated, grouped-query, latent-attention and sparse layers
against allocator readings of eight-device runs (MooreThreads/SimuMax@4dcaae513b docs/b200).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid, Recompute
from planner.work.blocks import Shard
from planner.work.ops import Numbers
from profiles.model import LayerList, TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

FLOAT_BYTES = 4.0
"""Bytes of what is kept in fp32 whatever the precision (softmax statistics)."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor kept for the backward pass: its bytes on one rank, and the mildest policy that drops it."""

    name: str
    num_bytes: Numbers
    dropped_by: Recompute | None = Recompute.FULL
    """None: every policy keeps it, as the input from which a layer is computed again."""

    def kept_bytes(self, recompute: Any) -> Numbers:
        """Bytes kept under `recompute` (a policy, or an array of their codes)."""
        if self.dropped_by is None:
            return self.num_bytes
        return np.where(np.less(recompute, self.dropped_by), self.num_bytes, 0.0)

    @property
    def kept_by(self) -> str:
        """The policies that keep it, in words."""
        if self.dropped_by is None:
            return "every policy"
        return ", ".join(policy.name.lower() for policy in Recompute if policy < self.dropped_by)


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
        return (Saved("final norm input", outside, None), Saved("logits input", outside, None))
    attention = _latent_attention(model, shard) if model.mla else _attention(model, shard)
    cross = _cross_attention(model, shard) if model.num_encoder_layers and kind != "encoder" else ()
    feed_forward = _experts(model, shard) if kind == "moe" else _feed_forward(model, shard)
    return (*_norms(model, shard), *attention, *cross, *feed_forward)


def saved_bytes(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> Numbers:
    """Bytes of one layer of `kind` that one microbatch keeps on one rank under the split's recomputation."""
    policy = _policy(kind, split)
    return sum((tensor.kept_bytes(policy) for tensor in saved_tensors(job, kind, split, stack)), 0.0 * split.tp)


def recomputed_tensors(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> tuple[Saved, ...]:
    """The tensors that come back to life while the backward pass of one layer computes them again."""
    policy = _policy(kind, split)
    return tuple(
        replace(tensor, num_bytes=tensor.num_bytes - tensor.kept_bytes(policy))
        for tensor in saved_tensors(job, kind, split, stack)
    )


def recomputed_bytes(job: TrainingJob, kind: str, split: Plan | PlanGrid, stack: SoftwareStack) -> Numbers:
    """Bytes of `recomputed_tensors`."""
    return sum((tensor.num_bytes for tensor in recomputed_tensors(job, kind, split, stack)), 0.0 * split.tp)


def _policy(kind: str, split: Plan | PlanGrid) -> Any:
    """The recomputation of a layer of `kind`: the embedding and the head are never computed again."""
    return split.recompute if kind not in ("embedding", "head") else Recompute.NONE * np.ones_like(split.recompute)


def _listed(model: LayerList, index: int, split: Plan | PlanGrid) -> tuple[Saved, ...]:
    """A listed layer keeps its input (the output before it, the batch itself for the first) and the rest."""
    layer, samples = model.layers[index], split.micro_batch * 1.0
    before = model.layers[index - 1].output_bytes if index else 0.0
    given = min(before, layer.saved_activation_bytes)
    return (
        Saved("layer input", samples * given, None),
        Saved("layer internals", samples * (layer.saved_activation_bytes - given)),
    )


def _mask(shard: Shard, model: TransformerShape, name: str) -> tuple[Saved, ...]:
    """The one-byte dropout mask of a tensor between parts."""
    return (Saved(name, shard.outside_tokens * model.hidden_size),) if shard.stack.dropout else ()


def _norms(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Inputs and outputs of the norms, one per attention and feed-forward part unless both share one.

    A layer's input is the checkpoint that full recomputation keeps. Norms behind a part keep their input.
    """
    outside = shard.width * shard.outside_tokens * model.hidden_size
    tensors = [Saved("layer input", outside, None), Saved("attention norm output", outside)]
    if model.norms_per_layer >= 2:
        tensors += [Saved("residual", outside), Saved("feed-forward norm output", outside)]
    tensors += [Saved(f"post-norm input {index}", outside) for index in range(model.norms_per_layer - 2)]
    return tuple(tensors)


def _attention(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Queries, keys and values as the core reads them, its statistics or scores, and its output."""
    query = shard.width * shard.tokens * model.num_heads * model.head_dim / shard.tp
    kv_heads = np.maximum(model.num_kv_heads / shard.tp, 1.0)
    keys = shard.width * shard.sequences * shard.query_length * kv_heads * model.head_dim
    before_norm = (Saved("queries and keys before their norm", query + keys),) if model.qk_norm else ()
    return (
        *before_norm,
        Saved("queries", query),
        Saved("keys", keys),
        Saved("values", keys),
        *_core(model, shard),
        Saved("attention output", query),
        *_mask(shard, model, "attention dropout mask"),
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
    return tuple(Saved(f"cross-attention {tensor.name}", tensor.num_bytes, tensor.dropped_by) for tensor in tensors)


def _core(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """What the attention core keeps: fp32 log-sum-exp if fused, else the scores' softmax and dropout.

    Unfused: softmax (2 bytes), dropout mask (1) and dropped-out softmax (2), 5 a s^2 b
    [Korthikanti 2022, arXiv:2205.05198, section 4.1].
    """
    heads = model.num_heads / shard.tp
    if shard.stack.attention_kernel != "unfused":
        return (Saved("softmax statistics", FLOAT_BYTES * shard.tokens * heads, Recompute.SELECTIVE),)
    scores = shard.tokens * heads * shard.key_length
    softmax = Saved("softmax", shard.width * scores, Recompute.SELECTIVE)
    if not shard.stack.dropout:
        return (softmax,)
    return (
        softmax,
        Saved("softmax dropout mask", scores, Recompute.SELECTIVE),
        Saved("dropped-out softmax", shard.width * scores, Recompute.SELECTIVE),
    )


def _latent_attention(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Multi-head latent attention: latents before and after their norms, then keys and values expanded.

    Training keeps the expanded tensors, so latents save nothing here [DeepSeek-V2 2024, arXiv:2405.04434, 2.1].
    """
    mla, heads = model.mla, model.num_heads / shard.tp
    assert mla is not None
    outside, inside = shard.width * shard.outside_tokens, shard.width * shard.tokens * heads
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    return (
        Saved("query latents", 2.0 * outside * mla.q_lora_rank),
        Saved("key-value latents", outside * (2.0 * mla.kv_lora_rank + mla.qk_rope_head_dim)),
        Saved("queries", inside * query_dim),
        Saved("keys", inside * query_dim),
        Saved("values", inside * mla.v_head_dim),
        *_core(model, shard),
        Saved("attention output", inside * mla.v_head_dim),
        *_mask(shard, model, "attention dropout mask"),
    )


def _inner(model: TransformerShape, shard: Shard, elements: Numbers, name: str) -> tuple[Saved, ...]:
    """Around an activation of `elements` outputs: its input (gate and up if gated) and its output.

    A gated activation that is not fused keeps the activated gate besides.
    """
    gates = 2.0 if model.gated_ffn else 1.0
    unfused = 1.0 if model.gated_ffn and not shard.stack.fused_elementwise else 0.0
    return (
        Saved(f"{name} activation input", (gates + unfused) * shard.width * elements),
        Saved(f"{name} activation output", shard.width * elements),
    )


def _feed_forward(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    elements = shard.tokens * model.ffn_size / shard.tp
    return (
        *_inner(model, shard, elements, "feed-forward"),
        *_mask(shard, model, "feed-forward dropout mask"),
    )


def _experts(model: TransformerShape, shard: Shard) -> tuple[Saved, ...]:
    """Each token's copies as the experts receive them and around their activation, and the shared expert.

    Balanced over experts; copies are whole on every etp rank, their width is sharded.
    """
    moe = model.moe
    assert moe is not None
    copies = shard.expert_tokens * moe.top_k
    shared = shard.tokens * moe.shared_width / shard.tp
    return (
        Saved("expert input", shard.width * copies * model.hidden_size),
        *_inner(model, shard, copies * moe.expert_ffn_size / shard.etp, "expert"),
        *(_inner(model, shard, shared, "shared expert") if moe.shared_width else ()),
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
    if kind == "head":
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
