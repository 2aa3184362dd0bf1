"""The families of models: which key holds which field, what is assumed when it is absent, what is always so.

Assumptions are those of transformers 4.57.1 (`configuration_*.py`), the rest is read off its `modeling_*.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from profiles.huggingface.config import Config

Fields = dict[str, Any]
Part = Callable[[Config, Fields], Fields]
"""Reads one aspect; returns fields to set. `num_extra_parameters` of several parts add up."""


def _gated(*, attention: bool = False, ffn: bool = False) -> Part:
    """Switchable biases of a gated layer: `attention_bias` on all four projections, `mlp_bias`."""

    def read(config: Config, fields: Fields) -> Fields:
        qkv = attention and config.flag("attention_bias", False)
        mlp = ffn and config.flag("mlp_bias", False)
        per_layer = qkv * fields["hidden_size"] + mlp * (2 * fields["ffn_size"] + fields["hidden_size"])
        return {"qkv_bias": qkv, "num_extra_parameters": fields["num_layers"] * per_layer}

    return read


def _window(default: int | None, full_attention_step: int = 0) -> Part:
    """A sliding window in all layers, or in all but every `full_attention_step`-th."""

    def read(config: Config, fields: Fields) -> Fields:
        window = config.optional_count("sliding_window sliding_window_size", default)
        step = full_attention_step
        if step:
            step = config.count("sliding_window_pattern _sliding_window_pattern", step)
        return _layer_types(config, fields, window, step)

    return read


def _late_window(config: Config, fields: Fields) -> Fields:
    """Qwen: a window only if `use_sliding_window`, and only from layer `max_window_layers` on."""
    window = config.optional_count("sliding_window", 4096)
    first = config.count("max_window_layers", 28, least=0)
    if not config.flag("use_sliding_window", False) or first >= fields["num_layers"]:
        window = None
    elif first and "layer_types" not in config.values:
        raise config.error("max_window_layers", "0 or at least the number of layers where a window is used")
    return _layer_types(config, fields, window, 0)


def _layer_types(config: Config, fields: Fields, window: int | None, step: int) -> Fields:
    """The window, after `layer_types` has had its say on which layers have one."""
    layers = fields["num_layers"]
    types = config.values.get(config.key("layer_types"))
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise config.error("layer_types", f"a list of {layers} names, one a layer")
        full = [name == "full_attention" for name in types]
        step = full.index(True) + 1 if True in full else 0
        every_step = ["full_attention" if step and not layer % step else "sliding_attention"
                      for layer in range(1, layers + 1)]  # fmt: skip
        if types != every_step:
            raise config.error("layer_types", 'full_attention every so many layers, "sliding_attention" between')
    if window is None or step == 1 or window >= fields["max_sequence_length"]:
        return {}
    return {"sliding_window": window, "full_attention_step": step}


def _experts(experts: int, top_k: int) -> Part:
    """Every layer sparse, with experts of the width of `intermediate_size`."""

    def read(config: Config, fields: Fields) -> Fields:
        moe = {
            "num_experts": config.count("num_local_experts num_experts", experts),
            "top_k": config.count("num_experts_per_tok experts_per_token", top_k),
            "expert_ffn_size": fields["ffn_size"],
        }
        return {"moe": moe}

    return read


def _qwen_experts(experts: int, top_k: int, width: int, shared: int = 0) -> Part:
    """Experts of their own width; Qwen2 adds a gated shared expert and a switch for the attention biases."""

    def read(config: Config, fields: Fields) -> Fields:
        moe = {
            "num_experts": config.count("num_experts num_local_experts", experts),
            "top_k": config.count("num_experts_per_tok", top_k),
            "expert_ffn_size": config.count("moe_intermediate_size", width),
            "layer_step": config.count("decoder_sparse_step", 1),
        }
        config.only("mlp_only_layers", [])
        config.only("use_qk_norm", True)
        if not shared:
            return {"moe": moe}
        moe |= {"num_shared_experts": 1, "shared_ffn_size": config.count("shared_expert_intermediate_size", shared)}
        gates = fields["num_layers"] // moe["layer_step"] * fields["hidden_size"]
        return {"moe": moe, "num_extra_parameters": gates, "qkv_bias": config.flag("qkv_bias", True)}

    return read


def _deepseek_experts(
    experts: int, top_k: int | None, width: int, shared: int, dense: int, groups: tuple[int, int] = (1, 1)
) -> Part:
    """The first layers dense, the others with shared experts of the width of the routed ones; `groups` of experts,
    and those that a token may choose."""

    def read(config: Config, fields: Fields) -> Fields:
        config.only("moe_layer_freq", 1)
        num_groups = config.optional_count("n_group", groups[0]) or 1
        moe = {
            "num_experts": config.count("n_routed_experts", experts),
            "top_k": config.count("num_experts_per_tok", top_k),
            "expert_ffn_size": config.count("moe_intermediate_size", width),
            "num_shared_experts": config.optional_count("n_shared_experts", shared) or 0,
            "num_first_dense_layers": config.count("first_k_dense_replace", dense, least=0),
            "num_groups": num_groups,
            "num_chosen_groups": min(config.optional_count("topk_group", groups[1]) or 1, num_groups),
        }
        return {"moe": moe, "num_mtp_modules": config.count("num_nextn_predict_layers", 0, least=0)}

    return read


def _latent_attention(config: Config, fields: Fields) -> Fields:
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    mla = {
        "q_lora_rank": config.optional_count("q_lora_rank", 1536) or 0,
        "kv_lora_rank": config.count("kv_lora_rank", 512),
        "qk_nope_head_dim": config.count("qk_nope_head_dim", 128),
        "qk_rope_head_dim": config.count("qk_rope_head_dim", 64),
        "v_head_dim": config.count("v_head_dim", 128),
    }
    config.key("qk_head_dim")  # the sum below, written out by some tools
    head_dim = mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"]
    return {"mla": mla, "head_dim": head_dim, "num_kv_heads": fields["num_heads"]}


def _glm4(config: Config, fields: Fields) -> Fields:
    return {"qk_norm": config.flag("use_qk_norm", False), "qkv_bias": config.flag("attention_bias", False)}


def _gpt_oss(config: Config, fields: Fields) -> Fields:
    """Biases everywhere, and one attention sink a head."""
    config.only("attention_bias", True)
    return {"num_extra_parameters": fields["num_layers"] * fields["num_heads"]}


def _gpt2(config: Config, fields: Fields) -> Fields:
    return {"num_learned_positions": fields["max_sequence_length"]}


def _gptj(config: Config, fields: Fields) -> Fields:
    """Biases on the feed-forward part and on the output head, none on the attention."""
    ffn = fields["num_layers"] * (fields["ffn_size"] + fields["hidden_size"])
    return {"num_extra_parameters": ffn + fields["vocabulary_size"]}


def _gpt_neox(config: Config, fields: Fields) -> Fields:
    config.only("attention_bias", True)
    return {}


def _opt(config: Config, fields: Fields) -> Fields:
    for key in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"):
        config.only(key, True)
    config.only("_remove_final_layer_norm", False)
    config.only("word_embed_proj_dim", fields["hidden_size"])
    return {"num_learned_positions": fields["max_sequence_length"] + 2}


def _bloom(config: Config, fields: Fields) -> Fields:
    """A layer norm after the embedding."""
    return {"num_extra_parameters": 2 * fields["hidden_size"]}


def _falcon(config: Config, fields: Fields) -> Fields:
    """`num_kv_heads` counts only in the new architecture; the older one is multi-query or multi-head."""
    heads, bias = fields["num_heads"], config.flag("bias", False)
    new = config.flag("new_decoder_architecture", False)
    multi_query = config.flag("multi_query", True)
    norms = config.optional_count("num_ln_in_parallel_attn", None) or (2 if new else 1)
    if not config.flag("parallel_attn", True):
        norms = 2
    kv_heads = fields["num_kv_heads"] if new else 1 if multi_query else heads
    return {"norms_per_layer": norms, "num_kv_heads": kv_heads, "qkv_bias": bias, "linear_bias": bias}


def _phi(config: Config, fields: Fields) -> Fields:
    """A bias on the output head."""
    config.only("qk_layernorm", False)
    return {"num_extra_parameters": fields["vocabulary_size"]}


def _t5(config: Config, fields: Fields) -> Fields:
    """One table of relative positions in each stack."""
    encoder = fields["num_layers"]
    buckets = config.count("relative_attention_num_buckets", 32)
    projection = config.values.get(config.key("feed_forward_proj"), "relu")
    if not isinstance(projection, str):
        raise config.error("feed_forward_proj", 'the name of an activation, "gated-" before it or not')
    config.only("is_encoder_decoder", True)
    return {
        "num_encoder_layers": encoder,
        "num_layers": config.optional_count("num_decoder_layers", None) or encoder,
        "gated_ffn": projection.startswith("gated-"),
        "num_extra_parameters": 2 * buckets * fields["num_heads"],
    }


def _bert(config: Config, fields: Fields) -> Fields:
    """Token types and the pooler; the norm after the embedding stands for the one at the end of a decoder."""
    config.only("position_embedding_type", "absolute")
    hidden = fields["hidden_size"]
    types = config.count("type_vocab_size", 2)
    return {
        "num_learned_positions": fields["max_sequence_length"],
        "num_extra_parameters": types * hidden + hidden * hidden + hidden,
    }


@dataclass(frozen=True, slots=True)
class Family:
    """How the configs of one `model_type` are read."""

    label: str
    keys: Mapping[str, str]
    """Field of the shape -> spellings of the key, the usual one first."""
    defaults: Mapping[str, int | None]
    """Field of the shape -> its value where the key is absent; None: derived from the others."""
    always: Mapping[str, Any]
    """Fields that no key changes."""
    tied: bool = False
    """`tie_word_embeddings` where the key is absent."""
    parts: tuple[Part, ...] = ()


_USUAL = {
    "vocabulary_size": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
    "hidden_size": "hidden_size",
    "ffn_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}
_GROUPED = _USUAL | {"num_kv_heads": "num_key_value_heads"}
_SIZED_HEADS = _GROUPED | {"head_dim": "head_dim"}
_GPT2 = {
    "vocabulary_size": "vocab_size",
    "max_sequence_length": "n_positions max_position_embeddings",
    "hidden_size": "n_embd hidden_size",
    "ffn_size": "n_inner",
    "num_layers": "n_layer num_hidden_layers",
    "num_heads": "n_head num_attention_heads",
}
_BLOOM = {
    "vocabulary_size": "vocab_size",
    "max_sequence_length": "seq_length",
    "hidden_size": "n_embed hidden_size",
    "num_layers": "n_layer num_hidden_layers",
    "num_heads": "num_attention_heads n_head",
}
_FALCON = _USUAL | {
    "hidden_size": "hidden_size n_embed",
    "ffn_size": "ffn_hidden_size",
    "num_layers": "num_hidden_layers n_layer",
    "num_heads": "num_attention_heads n_head",
    "num_kv_heads": "num_kv_heads n_head_kv",
}
_T5 = {
    "vocabulary_size": "vocab_size",
    "max_sequence_length": "n_positions",
    "hidden_size": "d_model hidden_size",
    "ffn_size": "d_ff",
    "num_layers": "num_layers num_hidden_layers",
    "num_heads": "num_heads num_attention_heads",
    "head_dim": "d_kv head_dim",
}


def _sizes(
    vocabulary: int, positions: int, hidden: int, ffn: int | None, layers: int, heads: int,
    kv_heads: int | None = None, head_dim: int | None = None,
) -> dict[str, int | None]:  # fmt: skip
    return {
        "vocabulary_size": vocabulary, "max_sequence_length": positions, "hidden_size": hidden, "ffn_size": ffn,
        "num_layers": layers, "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim,
    }  # fmt: skip


_LLAMA = {"norm": "rms_norm", "gated_ffn": True}
_BIASED = {"norm": "layer_norm", "qkv_bias": True, "linear_bias": True}
_PLAIN = {"norm": "layer_norm"}
_QWEN3 = _LLAMA | {"qk_norm": True}

FAMILIES: Mapping[str, Family] = {
    "llama": Family("Llama", _SIZED_HEADS, _sizes(32000, 2048, 4096, 11008, 32, 32), _LLAMA,
                    parts=(_gated(attention=True, ffn=True),)),
    "mistral": Family("Mistral", _SIZED_HEADS, _sizes(32000, 131072, 4096, 14336, 32, 32, 8), _LLAMA,
                      parts=(_window(4096),)),
    "mixtral": Family("Mixtral", _SIZED_HEADS, _sizes(32000, 131072, 4096, 14336, 32, 32, 8), _LLAMA,
                      parts=(_window(None), _experts(8, 2))),
    "qwen2": Family("Qwen2", _SIZED_HEADS, _sizes(151936, 32768, 4096, 22016, 32, 32, 32),
                    _LLAMA | {"qkv_bias": True}, parts=(_late_window,)),
    "qwen2_moe": Family("Qwen2-MoE", _SIZED_HEADS, _sizes(151936, 32768, 2048, 5632, 24, 16, 16),
                        _LLAMA | {"qkv_bias": True}, parts=(_late_window, _qwen_experts(60, 4, 1408, 5632))),
    "qwen3": Family("Qwen3", _SIZED_HEADS, _sizes(151936, 32768, 4096, 22016, 32, 32, 32, 128), _QWEN3,
                    parts=(_gated(attention=True), _late_window)),
    "qwen3_moe": Family("Qwen3-MoE", _SIZED_HEADS, _sizes(151936, 32768, 2048, 6144, 24, 32, 4), _QWEN3,
                        parts=(_gated(attention=True), _late_window, _qwen_experts(128, 8, 768))),
    "gemma": Family("Gemma", _SIZED_HEADS, _sizes(256000, 8192, 3072, 24576, 28, 16, 16, 256), _LLAMA, True,
                    (_gated(attention=True),)),
    "gemma2": Family("Gemma-2", _SIZED_HEADS, _sizes(256000, 8192, 2304, 9216, 26, 8, 4, 256),
                     _LLAMA | {"norms_per_layer": 4}, True, (_gated(attention=True), _window(4096, 2))),
    "gemma3_text": Family("Gemma-3", _SIZED_HEADS, _sizes(262208, 131072, 2304, 9216, 26, 8, 4, 256),
                          _QWEN3 | {"norms_per_layer": 4}, True, (_gated(attention=True), _window(4096, 6))),
    "deepseek_v2": Family("DeepSeek-V2", _SIZED_HEADS, _sizes(32000, 2048, 4096, 11008, 32, 32, None, 64), _LLAMA,
                          parts=(_latent_attention, _deepseek_experts(64, None, 1407, 2, 0))),
    "deepseek_v3": Family("DeepSeek-V3", _SIZED_HEADS, _sizes(129280, 4096, 7168, 18432, 61, 128, None, 64), _LLAMA,
                          parts=(_latent_attention, _deepseek_experts(256, 8, 2048, 1, 3, (8, 4)))),
    "glm4_moe": Family("GLM", _SIZED_HEADS, _sizes(151552, 131072, 4096, 10944, 46, 96, 8), _LLAMA,
                       parts=(_glm4, _deepseek_experts(128, 8, 1408, 1, 1))),
    "gpt_oss": Family("gpt-oss", _SIZED_HEADS, _sizes(201088, 131072, 2880, 2880, 36, 64, 8, 64),
                      _LLAMA | {"qkv_bias": True, "linear_bias": True},
                      parts=(_gpt_oss, _window(128, 2), _experts(128, 4))),
    "phi": Family("Phi", _GROUPED, _sizes(51200, 2048, 2048, 8192, 24, 32), _BIASED | {"norms_per_layer": 1},
                  parts=(_phi,)),
    "phi3": Family("Phi", _GROUPED, _sizes(32064, 4096, 3072, 8192, 32, 32), _LLAMA, parts=(_window(None),)),
    "gpt2": Family("GPT-2", _GPT2, _sizes(50257, 1024, 768, None, 12, 12), _BIASED, True, (_gpt2,)),
    "gptj": Family("GPT-J", _GPT2, _sizes(50400, 2048, 4096, None, 28, 16), _PLAIN | {"norms_per_layer": 1},
                   parts=(_gptj,)),
    "gpt_neox": Family("GPT-NeoX", _USUAL, _sizes(50432, 2048, 6144, 24576, 44, 64), _BIASED, parts=(_gpt_neox,)),
    "opt": Family("OPT", _USUAL | {"ffn_size": "ffn_dim"}, _sizes(50272, 2048, 768, 3072, 12, 12), _BIASED, True,
                  (_opt,)),
    "bloom": Family("BLOOM", _BLOOM, _sizes(250880, 2048, 64, None, 2, 8), _BIASED, True, (_bloom,)),
    "falcon": Family("Falcon", _FALCON, _sizes(65024, 2048, 4544, None, 32, 71), _PLAIN, True, (_falcon,)),
    "t5": Family("T5", _T5, _sizes(32128, 512, 512, 2048, 6, 8, None, 64), {"norm": "rms_norm"}, True, (_t5,)),
    "bert": Family("BERT", _USUAL, _sizes(30522, 512, 768, 3072, 12, 12), _BIASED | {"causal": False}, True,
                   (_bert,)),
}  # fmt: skip
"""By `model_type`."""

NESTED: Mapping[str, str] = {
    "gemma3": "gemma3_text",
    "kimi_k25": "kimi_k2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Model types with several towers, and the type of the one under `text_config`."""

SAME_AS: Mapping[str, str] = {"kimi_k2": "deepseek_v3"}
"""Model types that are another one under their own name."""
