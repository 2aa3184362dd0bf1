"""How many parameters a model has, of which kind, and the model FLOPs they cost a token."""

from typing import Any

import numpy as np

from profiles.model import LayerList, MixtureOfExperts, TransformerShape

GROUPS = (
    "embedding", "positions", "attention", "cross_attention", "ffn", "experts", "shared_experts", "router",
    "norms", "head", "extra",
)  # fmt: skip
"""Names of the groups of a transformer, in the order of the data."""

_NO_EXPERTS = MixtureOfExperts(num_experts=1, top_k=1, expert_ffn_size=1)


def num_parameters(model: TransformerShape | LayerList) -> float:
    """All parameters, tied embeddings counted once: the sum of `parameter_groups`; MTP modules apart."""
    return sum(parameter_groups(model).values())


def mtp_parameters(model: TransformerShape | LayerList) -> float:
    """Parameters of the modules that predict further tokens, beside those of the model: a projection, a layer like the
    last and three norms each; embedding and head are the model's [DeepSeek-AI 2024, arXiv:2412.19437, section 2.2].
    """
    if isinstance(model, LayerList) or not model.num_mtp_modules:
        return 0.0
    layers = num_parameters(_with_mtp_layers(model)) - num_parameters(model)
    norms = 3 * model.hidden_size * (2 if model.norm == "layer_norm" else 1)
    return layers + model.num_mtp_modules * (2 * model.hidden_size**2 + norms)


def _with_mtp_layers(model: TransformerShape) -> TransformerShape:
    """The model with the layers of its MTP modules behind its own."""
    layers = model.num_layers + model.num_mtp_modules
    return model.model_copy(update={"num_layers": layers, "num_mtp_modules": 0})


def num_active_parameters(model: TransformerShape | LayerList) -> float:
    """Parameters one token may meet: all of them but the experts it is not routed to.

    The input embedding is counted, as most publishers do (Jiang et al. 2024, arXiv:2401.04088: Mixtral 8x7B
    has 13 B active of 47 B).
    """
    groups = parameter_groups(model)
    total = sum(groups.values())
    if isinstance(model, LayerList) or model.moe is None:
        return total
    return total - groups["experts"] * (1.0 - model.moe.top_k / model.moe.num_experts)


def trained_fraction(model: TransformerShape | LayerList, lora_rank: int) -> float:
    """Share of the parameters that is trained: all, or adapters of a rank beside the projections into attention.

    An adapter of [n, k] holds rank (n + k) weights; like the first ones, these adapt queries, keys and values
    [Hu 2021, arXiv:2106.09685, sections 4.1 and 4.2].
    """
    if not lora_rank or isinstance(model, LayerList):
        return 1.0
    if model.mla:
        mla = model.mla
        query_dim = model.num_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
        expanded = model.num_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        sides = (mla.q_lora_rank or model.hidden_size) + query_dim + mla.kv_lora_rank + expanded
    else:
        sides = model.hidden_size + model.head_dim * (model.num_heads + 2 * model.num_kv_heads)
    layers = model.num_layers + model.num_encoder_layers
    return min(1.0, lora_rank * sides * layers / (num_parameters(model) + mtp_parameters(model)))


def parameter_groups(model: TransformerShape | LayerList) -> dict[str, float]:
    """Parameters by kind: every name of `GROUPS` for a transformer, "layers" alone for a plain list.

    Biases belong to the group of their matrix; `norms` holds every normalisation; `head` is 0 when tied.
    Sources of the weight shapes: Vaswani et al. 2017 (arXiv:1706.03762), Shazeer 2020 (arXiv:2002.05202) for
    the gated feed-forward part, DeepSeek-AI 2024 (arXiv:2405.04434, section 2) for latent attention and
    shared experts.
    """
    if isinstance(model, LayerList):
        return {"layers": float(sum(layer.parameters for layer in model.layers))}
    weights, biases = _matrices(model), _biases(model)
    groups = {name: float(weights.get(name, 0) + biases.get(name, 0)) for name in GROUPS}
    groups["embedding"] = float(model.vocabulary_size * model.hidden_size)
    groups["positions"] = float(model.num_learned_positions * model.hidden_size)
    groups["norms"] = float(_norms(model))
    groups["head"] = 0.0 if model.tied_embeddings else groups["head"]
    groups["extra"] = model.num_extra_parameters
    return groups


def model_flops_per_token(
    model: TransformerShape | LayerList, sequence_length: Any, *, causal: bool = False, lora_rank: int = 0
) -> Any:
    """Model FLOPs of one forward and backward pass per token, without recomputation: the numerator of MFU.

    6 FLOPs (2 forward, 4 backward) for every weight of a matrix the token meets, the output head included and
    the embedding look-up not, plus 6 L s heads (d_qk + d_v), which is 12 L h s where heads * d = h, for the
    attention scores and context. Sources: Narayanan et al. 2021 (arXiv:2104.04473, appendix; without
    recomputation 72 B s l h**2 (1 + s/(6 h) + V/(12 l h)) a batch) and Chowdhery et al. 2022
    (arXiv:2204.02311, appendix B, 6 N + 12 L H Q T a token).

    Both papers count every score. `causal=True` counts those that a causal mask keeps: s/2 keys a query, and
    w (1 - w/(2 s)) in a layer with a sliding window w; without it such a layer counts min(s, w) keys.

    `sequence_length` is a float or an array. The source of an encoder-decoder is taken to be as long as its
    target, and the figure is for one token of each. With `lora_rank` a frozen weight counts 4 (it has no gradient of
    its own) and one of an adapter 6. For a plain list of layers it is 3 times the forward
    FLOPs of one sample, whatever the length. Modules that predict further tokens count as the layer, the projection
    and the head that they are.
    """
    if isinstance(model, LayerList):
        return 3.0 * sum(layer.forward_flops for layer in model.layers) + 0.0 * sequence_length
    whole = _with_mtp_layers(model)
    weights = _matrices(whole)
    moe = model.moe or _NO_EXPERTS
    met = sum(weights.values()) - weights["experts"] * (1.0 - moe.top_k / moe.num_experts)
    met += model.num_mtp_modules * (weights["head"] + 2 * model.hidden_size**2)
    total = num_parameters(model) + mtp_parameters(model)
    adapters = trained_fraction(model, lora_rank) * total if lora_rank else 0.0
    return (4.0 if lora_rank else 6.0) * met + 6.0 * adapters + _score_flops(whole, sequence_length * 1.0, causal)


def _score_flops(model: TransformerShape, length: Any, causal: bool) -> Any:
    """Forward and backward FLOPs of scores and context a token, over all layers."""
    value_dim = model.mla.v_head_dim if model.mla else model.head_dim
    flops_per_key = 6.0 * model.num_heads * (model.head_dim + value_dim)
    full = model.num_full_attention_layers
    if model.linear_attention:
        return full * flops_per_key * length * (0.5 if causal and model.causal else 1.0) + _state_flops(model)
    window = np.minimum(length, model.sliding_window or np.inf)
    keys, window_keys = length, window
    if causal and model.causal:
        keys, window_keys = length / 2.0, window * (1.0 - window / (2.0 * length))
    encoder_and_cross = model.num_encoder_layers * length
    if model.num_encoder_layers:
        encoder_and_cross = encoder_and_cross + model.num_layers * length
    return flops_per_key * (full * keys + (model.num_layers - full) * window_keys + encoder_and_cross)


def _state_flops(model: TransformerShape) -> float:
    """Forward and backward FLOPs a token of updating and reading the states of linear attention: 2 each an element."""
    assert model.linear_attention
    layers = model.num_layers - model.num_full_attention_layers
    return 3.0 * 4.0 * layers * model.linear_attention.state_elements


def _matrices(model: TransformerShape) -> dict[str, int]:
    """Weights of the matrices by group, biases left out; `head` is there even when tied, for its FLOPs."""
    moe = model.moe or _NO_EXPERTS
    num_sparse = sum(model.is_sparse_layer)
    num_dense = model.num_layers - num_sparse + model.num_encoder_layers
    attention = _attention_matrices(model)
    attentive = model.num_full_attention_layers if model.linear_attention else model.num_layers
    per_width = (3 if model.gated_ffn else 2) * model.hidden_size
    return {
        "attention": (attentive + model.num_encoder_layers) * attention + _linear_matrices(model),
        "cross_attention": model.num_layers * attention if model.num_encoder_layers else 0,
        "ffn": num_dense * per_width * model.ffn_size,
        "experts": num_sparse * moe.num_experts * per_width * moe.expert_ffn_size,
        "shared_experts": num_sparse * per_width * moe.shared_width,
        "router": num_sparse * moe.num_experts * model.hidden_size,
        "head": model.vocabulary_size * model.hidden_size,
    }


def _attention_matrices(model: TransformerShape) -> int:
    """Query, key, value and output projections of one layer."""
    hidden, heads = model.hidden_size, model.num_heads
    if model.mla is None:
        gate = hidden * model.head_dim * heads if model.gated_attention else 0
        return 2 * hidden * model.head_dim * (heads + model.num_kv_heads) + gate
    mla = model.mla
    query_dim = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    query = (hidden + query_dim) * mla.q_lora_rank if mla.q_lora_rank else hidden * query_dim
    down = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim)
    up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return query + down + up + heads * mla.v_head_dim * hidden


def _linear_matrices(model: TransformerShape) -> int:
    """Projections of all layers with linear attention, into it and out of it."""
    linear = model.linear_attention
    if linear is None:
        return 0
    outputs = linear.num_value_heads * linear.value_head_dim
    layers = model.num_layers - model.num_full_attention_layers
    return layers * model.hidden_size * (linear.num_weights_per_input + outputs)


def _biases(model: TransformerShape) -> dict[str, int]:
    moe = model.moe or _NO_EXPERTS
    num_sparse = sum(model.is_sparse_layer)
    num_dense = model.num_layers - num_sparse + model.num_encoder_layers
    attention = model.qkv_bias * model.head_dim * (model.num_heads + 2 * model.num_kv_heads)
    attention += model.linear_bias * model.hidden_size

    def ffn(width: int) -> int:
        return model.linear_bias * ((2 if model.gated_ffn else 1) * width + model.hidden_size)

    return {
        "attention": (model.num_layers + model.num_encoder_layers) * attention,
        "cross_attention": model.num_layers * attention if model.num_encoder_layers else 0,
        "ffn": num_dense * ffn(model.ffn_size),
        "experts": num_sparse * moe.num_experts * ffn(moe.expert_ffn_size),
        "shared_experts": num_sparse * ffn(moe.shared_width) if moe.shared_width else 0,
        "router": num_sparse * moe.num_experts * model.linear_bias,
    }


def _norms(model: TransformerShape) -> int:
    """Norms of the layers, of queries and keys, of the latents, and one at the end of each stack."""
    layers = model.num_layers + model.num_encoder_layers
    wide = layers * model.norms_per_layer + 1
    attentions = layers
    if model.num_encoder_layers:
        wide += model.num_layers + 1  # one before each cross-attention, one at the end of the encoder
        attentions += model.num_layers
    narrow = 2 * model.head_dim if model.qk_norm else 0
    if model.mla:
        narrow += model.mla.q_lora_rank + model.mla.kv_lora_rank
    return wide * model.hidden_size * (2 if model.norm == "layer_norm" else 1) + attentions * narrow
