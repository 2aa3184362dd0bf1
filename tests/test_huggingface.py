"""Hugging Face configs: every family equals its catalogue record, and nothing is dropped in silence."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import catalog
from profiles.huggingface import from_config, known_model_types
from profiles.huggingface.families import FAMILIES, NESTED, SAME_AS
from profiles.model import TransformerShape
from profiles.parameters import num_parameters

CONFIGS = sorted((Path(__file__).parent / "data" / "configs").glob("*.json"))
ABOUT = {
    "name", "source", "family", "notes", "aliases", "unverified", "published_parameters", "published_active_parameters"
}  # fmt: skip
LLAMA = {"model_type": "llama"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestSamples:
    def test_equals_the_catalogue_record(self, path: Path):
        shape = from_config(read(path), path.stem)
        assert shape.model_dump(exclude=ABOUT) == catalog.model(path.stem).model_dump(exclude=ABOUT)
        assert path.stem in shape.source

    def test_refuses_one_more_key_that_acts(self, path: Path):
        values = read(path)
        tower = values.get("text_config", values)
        tower["use_linear_attention"] = False
        assert from_config(values, path.stem)
        tower["use_linear_attention"] = True
        with pytest.raises(ValueError, match="use_linear_attention"):
            from_config(values, path.stem)


def test_every_family_has_a_sample():
    sampled = set()
    for path in CONFIGS:
        values = read(path)
        model_type = values["model_type"]
        sampled.add(NESTED.get(model_type, SAME_AS.get(model_type, model_type)))
    assert sampled == set(FAMILIES)


@pytest.mark.parametrize(
    ("model_type", "total"),
    [
        # Counted by instantiating the class with its default config in transformers 4.57.1, on the meta device.
        ("llama", 6_738_415_616), ("mistral", 7_241_732_096), ("mixtral", 46_702_792_704), ("qwen2", 12_049_846_272),
        ("qwen2_moe", 14_315_784_192), ("qwen3", 12_049_461_248), ("qwen3_moe", 15_350_731_776),
        ("gemma", 8_537_680_896), ("gemma2", 2_614_341_888), ("gemma3_text", 2_628_658_432),
        ("gpt_oss", 116_829_156_672), ("phi", 1_418_270_720), ("phi3", 3_821_079_552), ("gpt2", 124_439_808),
        ("gptj", 6_050_882_784), ("gpt_neox", 20_554_567_680), ("opt", 125_239_296), ("bloom", 16_156_544),
        ("falcon", 6_921_720_704), ("t5", 60_506_624), ("bert", 109_482_240),
    ],
)  # fmt: skip
def test_absent_keys_take_the_defaults_of_transformers(model_type: str, total: int):
    assert num_parameters(from_config({"model_type": model_type}, "defaults")) == total


@pytest.mark.parametrize(
    ("values", "total"),
    [
        # As above, with these keys set.
        ({"model_type": "llama", "attention_bias": True, "num_key_value_heads": 4}, 5_799_186_432),
        ({"model_type": "llama", "mlp_bias": True, "tie_word_embeddings": True}, 6_608_179_200),
        ({"model_type": "llama", "head_dim": 64}, 5_664_673_792),
        ({"model_type": "qwen2_moe", "decoder_sparse_step": 2}, 8_085_743_616),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 3, "attention_bias": True}, 6_286_951_424),
        ({"model_type": "falcon", "parallel_attn": False, "bias": True}, 6_923_033_472),
        ({"model_type": "falcon", "multi_query": False, "num_hidden_layers": 3}, 1_038_831_104),
        ({"model_type": "gpt2", "n_inner": 1000, "n_layer": 3}, 51_094_968),
        ({"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16}, 559_214_592),
        (
            {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
             "num_decoder_layers": 3}, 73_805_824,
        ),
        ({"model_type": "deepseek_v3", "num_hidden_layers": 4}, 15_111_101_440),
        (
            {"model_type": "deepseek_v2", "num_experts_per_tok": 6, "num_hidden_layers": 4, "q_lora_rank": None,
             "n_shared_experts": 3}, 5_090_727_936,
        ),
        (
            {"model_type": "glm4_moe", "use_qk_norm": True, "attention_bias": True, "num_hidden_layers": 5,
             "head_dim": 128, "first_k_dense_replace": 3}, 6_655_167_744,
        ),
    ],
)  # fmt: skip
def test_keys_act_as_in_transformers(values: dict[str, Any], total: int):
    assert num_parameters(from_config(values, "changed")) == total


class TestWindows:
    def window(self, **values: Any) -> tuple[int | None, int]:
        shape = from_config(values, "windowed")
        return shape.sliding_window, shape.full_attention_step

    def test_null_is_no_window(self):
        assert self.window(model_type="mistral") == (4096, 0)
        assert self.window(model_type="mistral", sliding_window=None) == (None, 0)

    def test_longer_than_any_sequence_is_no_window(self):
        assert self.window(model_type="phi3", sliding_window=2047) == (2047, 0)
        assert self.window(model_type="phi3", sliding_window=4096) == (None, 0)

    def test_qwen_uses_it_only_if_told(self):
        assert self.window(model_type="qwen2", sliding_window=4096) == (None, 0)
        used = {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True}
        assert self.window(**used, max_window_layers=0) == (4096, 0)
        assert self.window(**used, max_window_layers=32) == (None, 0)
        with pytest.raises(ValueError, match="max_window_layers"):
            self.window(**used, max_window_layers=28)

    def test_pattern_by_key_and_by_list(self):
        by_list = ["sliding_attention", "sliding_attention", "full_attention"] * 8
        gemma = {"model_type": "gemma3_text", "num_hidden_layers": 24}
        assert self.window(**gemma) == (4096, 6)
        assert self.window(**gemma, sliding_window_pattern=4) == (4096, 4)
        assert self.window(**gemma, layer_types=by_list) == (4096, 3)
        assert self.window(**gemma, layer_types=["full_attention"] * 24) == (None, 0)
        assert self.window(**gemma, layer_types=["sliding_attention"] * 24) == (4096, 0)

    @pytest.mark.parametrize(
        "types",
        [
            ["full_attention"] * 3,
            "full_attention",
            ["linear_attention"] * 26,
            ["full_attention", *["sliding_attention"] * 25],
            [None] * 26,
        ],
    )
    def test_other_patterns_are_refused(self, types: Any):
        with pytest.raises(ValueError, match="layer_types"):
            from_config({"model_type": "gemma2", "layer_types": types}, "windowed")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "JSON object"),
        ({}, "model_type must be one of bert, .*, got 'None'"),
        ({"model_type": "mamba"}, "model_type must be one of .*llama.*, got 'mamba'"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"model_type": "gemma3"}, "text_config must be an object"),
        (LLAMA | {"hidden_size": 0}, "hidden_size must be an integer from 1 to 100000000, got 0"),
        (LLAMA | {"hidden_size": "4096"}, "hidden_size must be an integer"),
        (LLAMA | {"hidden_size": True}, "hidden_size must be an integer"),
        (LLAMA | {"hidden_size": 10**400}, "hidden_size must be an integer"),
        (LLAMA | {"num_hidden_layers": 10**7}, "num_layers: .* 100000, got 10000000"),
        (LLAMA | {"hidden_size": None}, "hidden_size must be an integer"),
        (LLAMA | {"num_attention_heads": 33}, "num_attention_heads must be a divisor"),
        (LLAMA | {"num_key_value_heads": 5}, "num_kv_heads must divide num_heads"),
        (LLAMA | {"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        (LLAMA | {"num_local_experts": 8}, "'num_local_experts' = 8 is not understood"),
        (LLAMA | {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type must be"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "word_embed_proj_dim must be 768"),
        ({"model_type": "opt", "do_layer_norm_before": False}, "do_layer_norm_before must be True"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm must be False"),
        ({"model_type": "deepseek_v2"}, "num_experts_per_tok must be an integer .*, got nothing"),
        ({"model_type": "deepseek_v3", "moe_layer_freq": 2}, "moe_layer_freq must be 1"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "top_k must be at most num_experts"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [3]}, "mlp_only_layers must be"),
        ({"model_type": "t5", "feed_forward_proj": 7}, "feed_forward_proj must be"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(values: Any, words: str):
    with pytest.raises(ValueError, match=words) as caught:
        from_config(values, "broken")
    assert str(caught.value).startswith("config of broken: ")
    assert "\n" not in str(caught.value)


def test_modules_left_out_are_noted():
    config = read(next(path for path in CONFIGS if path.stem == "deepseek-v3"))
    assert from_config(config, "deepseek-v3").num_mtp_modules == 1
    assert "text tower" in from_config({"model_type": "qwen3_vl", "text_config": {}}, "qwen3-vl").notes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(sorted({key for path in CONFIGS for key in read(path)})) | st.text(max_size=8)


@given(st.sampled_from(known_model_types()), st.dictionaries(keys, json_values | st.integers(1, 200), max_size=6))
def test_garbage_ends_in_a_value_error_or_a_shape(model_type: str, values: dict[str, Any]):
    shape = outcome(values | {"model_type": model_type})
    assert shape.startswith("config of garbage: ") if isinstance(shape, str) else num_parameters(shape) > 0


def outcome(values: Any) -> TransformerShape | str:
    """The shape, or the message of the ValueError."""
    try:
        return from_config(values, "garbage")
    except ValueError as error:
        return str(error)


@given(json_values)
def test_any_json_ends_in_a_value_error(values: Any):
    with pytest.raises(ValueError, match="config of garbage: "):
        from_config(values, "garbage")
