"""Parameter counts against published totals, and model FLOPs against the formulas of the papers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Plan
from planner.work import layers
from profiles import catalog
from profiles.model import LatentAttention, LayerList, MixtureOfExperts, TransformerShape
from profiles.parameters import (
    GROUPS,
    model_flops_per_token,
    mtp_parameters,
    num_active_parameters,
    num_parameters,
    parameter_groups,
)

MODELS = [catalog.model(name) for name in catalog.names("models")]
TRANSFORMERS = [model for model in MODELS if isinstance(model, TransformerShape)]

SERVED_ONLY = [model for model in TRANSFORMERS if model.linear_attention]
"""Models that plans of training refuse."""

TOTAL_EXCEPTIONS = {
    "falcon-40b": "the published total counts the tied output head again",
    "llama4-scout-17b-16e": "the published total includes the vision tower, some 1 B",
}
ACTIVE_EXCEPTIONS = {
    "deepseek-v2-lite": "published as 2.4 B, without the embedding and rounded down",
    "glm-4.5": "published as 32 B, without the embedding and rounded down",
    "glm-4.5-air": "published as 12 B, without the embedding and rounded down",
    "gpt-oss-20b": "published without the input embedding",
    "gpt-oss-120b": "published without the input embedding",
    "kimi-k2": "published as 32 B, without the input embedding",
    "minimax-m2.5": "published as 10 B, without the embedding and rounded down",
}


def by_name(model: object) -> str:
    return model.name


@pytest.mark.parametrize("model", [model for model in MODELS if model.published_parameters], ids=by_name)
def test_total_is_the_published_one(model: TransformerShape | LayerList):
    error = num_parameters(model) / model.published_parameters - 1
    assert (abs(error) > 0.01) == (model.name in TOTAL_EXCEPTIONS), f"off by {error:.2%}"


@pytest.mark.parametrize("model", [model for model in TRANSFORMERS if model.published_active_parameters], ids=by_name)
def test_active_total_is_the_published_one(model: TransformerShape):
    error = num_active_parameters(model) / model.published_active_parameters - 1
    assert (abs(error) > 0.02) == (model.name in ACTIVE_EXCEPTIONS), f"off by {error:.2%}"


@pytest.mark.parametrize("model", MODELS, ids=by_name)
def test_groups_sum_to_the_total(model: TransformerShape | LayerList):
    groups = parameter_groups(model)
    assert tuple(groups) == (GROUPS if isinstance(model, TransformerShape) else ("layers",))
    assert min(groups.values()) >= 0.0
    assert sum(groups.values()) == num_parameters(model)
    assert all(value == int(value) for value in groups.values())


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # Counted by instantiating the class in transformers 4.57.1 (on the meta device) and summing its weights.
        ("llama-7b", 6_738_415_616),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen1.5-moe-a2.7b", 14_315_784_192),
        ("gemma-7b", 8_537_680_896),
        ("gemma2-2b", 2_614_341_888),
        ("gpt-oss-120b", 116_829_156_672),
        ("phi-3-mini", 3_821_079_552),
        ("gpt2", 124_439_808),
        ("gpt-j-6b", 6_050_882_784),
        ("gpt-neox-20b", 20_554_567_680),
        ("opt-125m", 125_239_296),
        ("falcon-7b", 6_921_720_704),
        ("bert-base", 109_482_240),
        # torchvision's documentation of its weights.
        ("resnet-50", 25_557_032),
        ("vgg-16", 138_357_544),
    ],
)
def test_total_to_the_last_weight(name: str, total: int):
    assert num_parameters(catalog.model(name)) == total


def test_dcgan_is_what_its_kernels_are():
    generator = [(100, 512), (512, 256), (256, 128), (128, 64), (64, 3)]
    discriminator = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    kernels = sum(16 * inputs * outputs for inputs, outputs in generator + discriminator)
    norms = 2 * (512 + 256 + 128 + 64) + 2 * (128 + 256 + 512)
    assert num_parameters(catalog.model("dcgan")) == kernels + norms


@pytest.mark.parametrize(("name", "giga_macs"), [("resnet-50", 4.09), ("vgg-16", 15.47)])
def test_flops_of_layer_lists_are_the_published_ones(name: str, giga_macs: float):
    model = catalog.model(name)
    flops = sum(layer.forward_flops for layer in model.layers)
    assert flops / 2e9 == pytest.approx(giga_macs, abs=0.005)
    assert model_flops_per_token(model, 1) == 3 * flops


class TestModelFlops:
    @pytest.mark.parametrize("name", ["gpt3-175B", "turing-530B", "megatron-1T"])
    def test_megatron_formula(self, name: str):
        """Narayanan et al. 2021, arXiv:2104.04473: 72 B s l h**2 (1 + s/(6h) + V/(12lh)) without recomputation."""
        model = catalog.model(name)
        layers, hidden, words, length = model.num_layers, model.hidden_size, model.vocabulary_size, 2048
        expected = 72 * layers * hidden**2 * (1 + length / (6 * hidden) + words / (12 * layers * hidden))
        assert model_flops_per_token(model, length) == pytest.approx(expected, rel=1e-12)

    def test_palm_formula(self):
        """Chowdhery et al. 2022, arXiv:2204.02311, appendix B: 6 N + 12 L H Q T, N without the norms."""
        model = catalog.model("palm-540B")
        weights = num_parameters(model) - parameter_groups(model)["norms"]
        expected = 6 * weights + 12 * model.num_layers * model.num_heads * model.head_dim * 2048
        assert model_flops_per_token(model, 2048) == pytest.approx(expected, rel=1e-12)

    def test_a_mixture_meets_its_active_experts(self):
        model = catalog.model("mixtral-8x7b")
        groups = parameter_groups(model)
        weights = num_active_parameters(model) - groups["embedding"] - groups["norms"]
        scores = 12 * model.num_layers * model.num_heads * model.head_dim * 4096
        assert model_flops_per_token(model, 4096) == pytest.approx(6 * weights + scores, rel=1e-12)

    def test_latent_attention_scores_queries_and_values_of_different_width(self):
        model = catalog.model("deepseek-v3")
        slope = model_flops_per_token(model, 4096) - model_flops_per_token(model, 4095)
        assert slope == pytest.approx(6 * 62 * 128 * (192 + 128), rel=1e-9)  # with the module for a further token

    def test_a_module_for_a_further_token_is_a_layer_a_projection_and_a_head(self):
        model = catalog.model("deepseek-v3")
        without = model.model_copy(update={"num_mtp_modules": 0})
        deeper = without.model_copy(update={"num_layers": 62})
        added = model_flops_per_token(model, 4096) - model_flops_per_token(deeper, 4096)
        assert added == pytest.approx(6 * 7168 * (129280 + 2 * 7168))
        assert mtp_parameters(model) == num_parameters(deeper) - num_parameters(without) + 2 * 7168**2 + 3 * 7168
        assert mtp_parameters(model) + num_parameters(model) + 2 * 129280 * 7168 == pytest.approx(684.5e9, rel=1e-3)
        with pytest.raises(ValueError, match="num_mtp_modules"):
            TransformerShape.model_validate({**catalog.model("t5-base").model_dump(), "num_mtp_modules": 1})

    def test_a_causal_mask_keeps_half_of_the_scores(self):
        model = catalog.model("llama3-8b")
        at_0, at_8192 = model_flops_per_token(model, 1e-9), model_flops_per_token(model, 8192)
        causal = model_flops_per_token(model, 8192, causal=True)
        assert causal - at_0 == pytest.approx((at_8192 - at_0) / 2, rel=1e-9)

    def test_an_encoder_is_not_masked(self):
        model = catalog.model("bert-large")
        assert model_flops_per_token(model, 512, causal=True) == model_flops_per_token(model, 512)

    def test_an_encoder_decoder_has_three_attentions_a_pair_of_layers(self):
        model = catalog.model("t5-base")
        slope = model_flops_per_token(model, 512) - model_flops_per_token(model, 511)
        assert slope == pytest.approx(3 * 12 * 12 * model.num_heads * model.head_dim, rel=1e-9)

    @pytest.mark.parametrize("length", [150, 1000])
    def test_a_window_is_counted_pair_by_pair(self, length: int):
        """Against the pairs of query and key themselves, of which the formula takes the continuous limit."""
        model = tiny(sliding_window=200)
        queries, keys = np.indices((length, length))
        pairs = np.sum((keys <= queries) & (queries - keys < 200))
        per_pair = 12.0 * model.num_layers * model.num_heads * model.head_dim
        weights = model_flops_per_token(model, 1e-12)
        scores = model_flops_per_token(model, length, causal=True) - weights
        assert length * scores / per_pair == pytest.approx(pairs, rel=0.01)

    def test_every_sixth_layer_in_full(self):
        model = tiny(num_layers=12, sliding_window=8, full_attention_step=6)
        slope = model_flops_per_token(model, 1001) - model_flops_per_token(model, 1000)
        assert slope == pytest.approx(2 * 12 * model.num_heads * model.head_dim, rel=1e-9)

    @pytest.mark.parametrize("model", MODELS, ids=by_name)
    def test_broadcasts(self, model: TransformerShape | LayerList):
        lengths = np.array([1.0, 512.0, 65536.0])
        for causal in (False, True):
            many = model_flops_per_token(model, lengths, causal=causal)
            one = [float(model_flops_per_token(model, length, causal=causal)) for length in lengths]
            assert many.tolist() == one


class TestThePlannerCountsTheSame:
    """`planner.work.layers` counts layer by layer, from what a rank holds and runs; here from closed forms."""

    @pytest.mark.parametrize("model", [one for one in MODELS if one not in SERVED_ONLY], ids=by_name)
    def test_parameters(self, model: TransformerShape | LayerList):
        kinds = layers.sequence(model)
        total = sum(float(sum(layers.layer_parameters(model, kind, Plan()))) for kind in kinds)
        assert total == pytest.approx(num_parameters(model) + mtp_parameters(model), rel=1e-5)


def tiny(**changes: object) -> TransformerShape:
    values = {
        "name": "tiny", "source": "made for a test", "family": "test", "num_layers": 4, "hidden_size": 64,
        "num_heads": 8, "num_kv_heads": 8, "head_dim": 16, "ffn_size": 256, "vocabulary_size": 100,
        "max_sequence_length": 128,
    }  # fmt: skip
    return TransformerShape.model_validate(values | changes)


sizes = st.integers(1, 4096)


@st.composite
def mixtures(draw: st.DrawFn) -> MixtureOfExperts:
    num_experts = draw(st.integers(1, 64))
    return MixtureOfExperts(
        num_experts=num_experts, top_k=draw(st.integers(1, num_experts)), expert_ffn_size=draw(sizes),
        num_shared_experts=draw(st.integers(0, 4)), num_first_dense_layers=draw(st.integers(0, 4)),
        layer_step=draw(st.integers(1, 3)),
    )  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn) -> TransformerShape:
    kv_heads, latent = draw(st.integers(1, 16)), draw(st.booleans())
    mla = LatentAttention(q_lora_rank=draw(st.integers(0, 64)), kv_lora_rank=draw(sizes), qk_nope_head_dim=8,
                          qk_rope_head_dim=8, v_head_dim=draw(sizes)) if latent else None  # fmt: skip
    return tiny(
        num_layers=draw(st.integers(1, 40)), hidden_size=draw(sizes), num_kv_heads=kv_heads,
        num_heads=kv_heads * draw(st.integers(1, 8)), ffn_size=draw(sizes), vocabulary_size=draw(sizes),
        gated_ffn=draw(st.booleans()), tied_embeddings=draw(st.booleans()), linear_bias=draw(st.booleans()),
        norm=draw(st.sampled_from(["layer_norm", "rms_norm"])), qkv_bias=not latent and draw(st.booleans()),
        qk_norm=not latent and draw(st.booleans()), num_encoder_layers=draw(st.integers(0, 3)),
        moe=draw(st.none() | mixtures()), mla=mla, sliding_window=draw(st.none() | sizes),
        full_attention_step=draw(st.integers(0, 3)),
    )  # fmt: skip


@given(shapes())
def test_active_is_at_most_total_and_equal_when_dense(model: TransformerShape):
    total, active = num_parameters(model), num_active_parameters(model)
    assert sum(parameter_groups(model).values()) == total
    assert 0 < active <= total
    assert active == total or model.moe is not None


@given(shapes(), st.integers(1, 5))
def test_more_layers_have_more_parameters_and_flops(model: TransformerShape, extra: int):
    deeper = model.model_copy(update={"num_layers": model.num_layers + extra})
    assert num_parameters(deeper) > num_parameters(model)
    assert model_flops_per_token(deeper, 128) > model_flops_per_token(model, 128)


@given(shapes())
def test_fewer_kv_heads_have_fewer_parameters(model: TransformerShape):
    grouped = model.model_copy(update={"num_kv_heads": 1})
    fewer = model.num_kv_heads > 1 and model.mla is None
    assert (num_parameters(grouped) < num_parameters(model)) == fewer


@given(shapes())
def test_tying_saves_exactly_one_embedding(model: TransformerShape):
    tied, free = (model.model_copy(update={"tied_embeddings": tie}) for tie in (True, False))
    assert num_parameters(free) - num_parameters(tied) == model.vocabulary_size * model.hidden_size
    assert model_flops_per_token(free, 64) == model_flops_per_token(tied, 64)


@given(shapes(), st.floats(1, 1e6))
def test_a_mask_never_adds_flops_and_a_window_neither(model: TransformerShape, length: float):
    full = model_flops_per_token(model, length)
    causal = model_flops_per_token(model, length, causal=True)
    unwindowed = model_flops_per_token(model.model_copy(update={"sliding_window": None}), length, causal=True)
    assert 0 < causal <= full * (1 + 1e-12)
    assert causal <= unwindowed * (1 + 1e-12)
