"""Activation bytes against the published formulas, tensor by tensor, and the laws of sharding them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Plan, PlanGrid, Recompute
from planner.work.activations import recomputed_bytes, saved_bytes, saved_tensors
from profiles.model import LatentAttention, LayerList, ListedLayer, MixtureOfExperts, TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

UNFUSED = SoftwareStack(name="unfused", source="test", attention_kernel="unfused", dropout=True)
FLASH = SoftwareStack(name="flash", source="test", attention_kernel="flash-2")


def shape(**changes: object) -> TransformerShape:
    """The 22B GPT of the sequence-parallelism paper, with changes."""
    values: dict[str, object] = {
        "name": "gpt", "source": "test", "family": "gpt", "num_layers": 48, "hidden_size": 6144, 
        "num_heads": 64, "num_kv_heads": 64, "head_dim": 96, "ffn_size": 24576, "vocabulary_size": 51200,
        "max_sequence_length": 2048, "norm": "layer_norm", "linear_bias": True,
    }  # fmt: skip
    return TransformerShape(**values | changes)


def job(model: TransformerShape | LayerList, sequence_length: int = 2048, precision: str = "bf16") -> TrainingJob:
    """One step of `model`."""
    return TrainingJob(model=model, global_batch=512, sequence_length=sequence_length, precision=precision)


LLAMA_70B = shape(hidden_size=8192, num_heads=64, num_kv_heads=8, head_dim=128, ffn_size=28672,
                  gated_ffn=True, norm="rms_norm", linear_bias=False)  # fmt: skip


@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_gpt_layer_equals_the_sequence_parallelism_paper(tp: int, micro_batch: int) -> None:
    """arXiv:2205.05198, table 2, all six rows."""
    model, s, b, h, a = shape(), 2048, micro_batch, 6144, 64
    scores = 5 * a * s / (h * tp)
    expected = {
        (False, Recompute.NONE): s * b * h * (10 + 24 / tp + scores),
        (True, Recompute.NONE): s * b * h / tp * (34 + 5 * a * s / h),
        (False, Recompute.SELECTIVE): s * b * h * (10 + 24 / tp),
        (True, Recompute.SELECTIVE): s * b * h * 34 / tp,
        (False, Recompute.FULL): 2 * s * b * h,
        (True, Recompute.FULL): 2 * s * b * h / tp,
    }
    for (sequence_parallel, recompute), num_bytes in expected.items():
        plan = Plan(tp=tp, micro_batch=b, sequence_parallel=sequence_parallel, recompute=recompute)
        assert saved_bytes(job(model), "dense", plan, UNFUSED) == pytest.approx(num_bytes, rel=1e-12)


def test_llama_layer_equals_the_inventory() -> None:
    """8h + 4q + 4k + 6f + 4a bytes a token: 274,688 for Llama-3-70B, as its allocator says (SimuMax)."""
    plan, tokens = Plan(), 4096
    per_token = saved_bytes(job(LLAMA_70B, tokens), "dense", plan, FLASH) / tokens
    assert per_token == 8 * 8192 + 4 * 8192 + 4 * 1024 + 6 * 28672 + 4 * 64 == 274_688


def test_few_key_value_heads_are_repeated_over_wide_tensor_parallelism() -> None:
    """With more tp ranks than key-value heads, each rank holds one whole head."""
    tensors = {tensor.name: tensor for tensor in saved_tensors(job(LLAMA_70B), "dense", Plan(tp=16), FLASH)}
    assert tensors["keys"].num_bytes == 2 * 2048 * 128


def test_latent_attention_and_experts_equal_the_inventory() -> None:
    """DeepSeek-V2: 2h x 4, latents, expanded queries, keys and values, and top-k copies of each token."""
    mla = LatentAttention(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    moe = MixtureOfExperts(num_experts=160, top_k=6, expert_ffn_size=1536, num_shared_experts=2)
    model = shape(hidden_size=5120, num_heads=128, num_kv_heads=128, head_dim=192, ffn_size=12288,
                  gated_ffn=True, norm="rms_norm", linear_bias=False, mla=mla, moe=moe)  # fmt: skip
    attention = 4 * 1536 + 4 * 512 + 2 * 64 + 2 * 2 * 128 * 192 + 2 * 128 * 128 + 2 * 128 * 128 + 4 * 128
    experts = 6 * (2 * 5120 + 6 * 1536) + 6 * 2 * 1536
    per_token = saved_bytes(job(model), "moe", Plan(), FLASH) / 2048
    assert per_token == pytest.approx(4 * 2 * 5120 + attention + experts)


@pytest.mark.parametrize("shared_width", [0, 4096])
def test_experts_read_a_norm_as_it_is_sharded_and_a_shared_expert_gathers_it(shared_width: int) -> None:
    """Tokens travel to experts from where they are; only tensor-parallel parts gather the sequence first."""
    moe = MixtureOfExperts(num_experts=8, top_k=2, expert_ffn_size=4096, shared_ffn_size=shared_width)
    stack = FLASH.model_copy(update={"regathers_inputs": False})
    plan = Plan(tp=4, sequence_parallel=True)
    kept = {one.name: float(one.num_bytes) for one in saved_tensors(job(shape(moe=moe)), "moe", plan, stack)}
    whole = 2.0 * 2048 * 6144
    assert kept["attention norm output"] == whole
    assert kept["feed-forward norm output"] == whole / 4
    assert kept.get("shared expert input", 0.0) == (whole if shared_width else 0.0)
    again = {one.name: float(one.num_bytes) for one in saved_tensors(job(shape(moe=moe)), "moe", plan, FLASH)}
    assert again.get("shared expert input", 0.0) == 0.0


def test_parallel_blocks_share_a_norm_and_extra_norms_keep_their_input() -> None:
    base = saved_bytes(job(shape()), "dense", Plan(), FLASH)
    token_hidden = 2 * 2048 * 6144
    assert base - saved_bytes(job(shape(norms_per_layer=1)), "dense", Plan(), FLASH) == 2 * token_hidden
    assert saved_bytes(job(shape(norms_per_layer=4)), "dense", Plan(), FLASH) - base == 2 * token_hidden


def test_decoders_that_read_an_encoder_keep_a_second_attention() -> None:
    model = shape(num_encoder_layers=12, causal=True)
    extra = saved_bytes(job(model), "dense", Plan(), FLASH) - saved_bytes(job(model), "encoder", Plan(), FLASH)
    assert extra == 2048 * (6 * 6144 + 8 * 6144 + 4 * 64)


def test_fp32_doubles_everything_but_statistics() -> None:
    statistics = 4 * 64 * 2048
    half = saved_bytes(job(shape()), "dense", Plan(), FLASH) - statistics
    assert saved_bytes(job(shape(), precision="fp32"), "dense", Plan(), FLASH) - statistics == 2 * half


def test_a_gated_activation_in_two_kernels_keeps_the_activated_gate() -> None:
    eager = FLASH.model_copy(update={"fused_elementwise": False})
    extra = saved_bytes(job(LLAMA_70B), "dense", Plan(), eager) - saved_bytes(job(LLAMA_70B), "dense", Plan(), FLASH)
    assert extra == 2 * 2048 * 28672


def test_listed_layers_keep_what_they_state_for_each_sample() -> None:
    layers = tuple(
        ListedLayer(name=name, parameters=1, forward_flops=1, forward_bytes=1, saved_activation_bytes=saved,
                    output_bytes=30) for name, saved in (("a", 100), ("b", 50))
    )  # fmt: skip
    net = job(LayerList(name="net", source="test", layers=layers), 1)
    plan = Plan(micro_batch=3)
    assert [saved_bytes(net, kind, plan, FLASH) for kind in ("layer-0", "layer-1")] == [300, 150]
    full = replace(plan, recompute=Recompute.FULL)
    assert [saved_bytes(net, kind, full, FLASH) for kind in ("layer-0", "layer-1")] == [0, 90]


KINDS = ("embedding", "dense", "encoder", "moe", "head")
MODEL = shape(num_encoder_layers=2, moe=MixtureOfExperts(num_experts=8, top_k=2, expert_ffn_size=4096), gated_ffn=True)


@given(
    tp=st.sampled_from([1, 2, 4, 8]), cp=st.sampled_from([1, 2, 4]), micro_batch=st.integers(1, 8),
    recompute=st.sampled_from(list(Recompute)), sequence_parallel=st.booleans(), kind=st.sampled_from(KINDS),
    stack=st.sampled_from([UNFUSED, FLASH]),
)  # fmt: skip
def test_laws_of_sharding(tp, cp, micro_batch, recompute, sequence_parallel, kind, stack) -> None:  # type: ignore[no-untyped-def]
    plan = Plan(tp=tp, cp=cp, micro_batch=micro_batch, recompute=recompute, sequence_parallel=sequence_parallel)
    work = job(MODEL)
    kept = saved_bytes(work, kind, plan, stack)
    assert kept <= saved_bytes(work, kind, replace(plan, tp=max(1, tp // 2)), stack)
    assert kept >= saved_bytes(work, kind, replace(plan, sequence_parallel=True), stack)
    assert kept <= saved_bytes(work, kind, replace(plan, recompute=Recompute.NONE), stack)
    assert kept == pytest.approx(saved_bytes(work, kind, replace(plan, micro_batch=1), stack) * micro_batch)
    assert kept == pytest.approx(saved_bytes(work, kind, replace(plan, cp=1), stack) / cp)
    assert recomputed_bytes(work, kind, plan, stack) >= 0.0


def test_a_grid_gives_what_its_plans_give() -> None:
    grid = PlanGrid.product(tp=(1, 2, 8), cp=(1, 2), micro_batch=(1, 3), recompute=tuple(Recompute),
                            sequence_parallel=(False, True))  # fmt: skip
    for kind in KINDS:
        at_once = saved_bytes(job(MODEL), kind, grid, UNFUSED)
        one_by_one = [float(saved_bytes(job(MODEL), kind, plan, UNFUSED)) for plan in grid]
        np.testing.assert_allclose(at_once, one_by_one, rtol=1e-12)
