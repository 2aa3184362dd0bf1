"""Parameters that one rank holds of a layer."""

from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from planner.work.ops import Numbers
from profiles.model import TransformerShape


def parameters(model: TransformerShape, kind: str, split: Plan | PlanGrid) -> tuple[Any, Any]:
    """(parameters of the dense mesh, parameters of the expert mesh) of one layer on one rank."""
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
    if kind == "mtp":
        projection = 2.0 * hidden * hidden / tp + 3.0 * norm_size
        copy = model.vocabulary_size * hidden / tp * np.greater(split.pp, 1)  # of the embedding, on the last stage
        return projection + copy / model.num_mtp_modules + none, none
    attention = attention_parameters(model, tp)
    if model.num_encoder_layers and kind != "encoder":
        attention = 2.0 * attention + norm_size
    extra = model.num_extra_parameters / (model.num_layers + model.num_encoder_layers) / tp
    shared = attention + model.norms_per_layer * norm_size + extra
    if kind == "moe":
        assert model.moe is not None
        moe = model.moe
        expert = moe.num_experts * ffn_parameters(model, moe.expert_ffn_size, split.etp * 1.0) / split.ep
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
