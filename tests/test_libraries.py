"""The kernels of named libraries: physics, surfaces, and the records shipped for each family of chips."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.cost.kernels import kernel_seconds
from planner.cost.libraries import library_error_fraction, library_gemm_seconds, mixed_attention_factor
from planner.cost.serving import engine_prices
from planner.cost.surfaces import gemm_features, surface_factor
from planner.serving import IterationShape
from planner.work.forms import FORMS, form_of
from planner.work.iteration import ServedShard
from planner.work.ops import Attention, DecodeAttention, Elementwise, ExpertLayer, Gemm, Kernel
from profiles import catalog
from profiles.libraries import LibraryCurves
from profiles.surface import Surface, Term
from profiles.writer import to_toml

FAMILIES = {
    name: catalog.load("calibration", name) for name in catalog.names("calibration") if name.startswith("libraries/")
}
H100 = catalog.cluster("h100-sxm", 1)
OPS: dict[str, Kernel] = {
    "gemm": Gemm(512.0, 8192.0, 8192.0, dtype="fp8", library="trtllm", form="fp8"),
    "prefill": Attention(4.0, 32.0, 8.0, 2048.0, 2048.0, 128.0, 128.0, library="vllm"),
    "decode": DecodeAttention(64.0, 32.0, 8.0, 4096.0, 128.0, 128.0, library="vllm"),
    "elementwise": Elementwise(1e9, library="torch", kernel="mlp_act"),
    "experts": ExpertLayer(4096.0, 32768.0, 4096.0, 1536.0, 128.0, "trtllm", "fp8"),
}
LINE = Term(features=("x",), knots=((0.0, 1.0, 3.0),), log_factors=(0.0, 1.0, -1.0))
PLANE = Term(features=("x", "y"), knots=((0.0, 1.0), (0.0, 2.0)), log_factors=(0.0, 2.0, 4.0, 6.0))


@pytest.mark.parametrize(("x", "height"), [(-5.0, 0.0), (0.25, 0.25), (1.0, 1.0), (2.0, 0.0), (9.0, -1.0)])
def test_a_term_is_linear_between_its_knots_and_constant_beyond(x: float, height: float) -> None:
    assert surface_factor(Surface(terms=(LINE,)), {"x": x}) == pytest.approx(np.exp(height))


@given(st.floats(0.0, 1.0), st.floats(0.0, 2.0))
def test_two_features_interpolate_bilinearly_and_terms_multiply(x: float, y: float) -> None:
    features = {"x": x, "y": y}
    plane, line = (float(surface_factor(Surface(terms=(term,)), features)) for term in (PLANE, LINE))
    assert np.log(plane) == pytest.approx(4.0 * x + y, abs=1e-12)
    assert surface_factor(Surface(terms=(PLANE, LINE)), features) == pytest.approx(plane * line)
    assert surface_factor(Surface(), features) == 1.0


@pytest.mark.parametrize(
    "changes", [{"knots": ((0.0, 2.0, 1.0),)}, {"log_factors": (1.0,)}, {"knots": ((0.0, 1.0), (0.0, 1.0))}]
)
def test_tables_that_do_not_fit_their_knots_do_not_load(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"knots|log_factors"):
        Term(**LINE.model_dump() | changes)


def test_idle_waves_and_rows_are_told_from_full_ones() -> None:
    full = gemm_features(Gemm(128.0 * 132, 128.0, 4096.0), 132.0)
    over = gemm_features(Gemm(128.0 * 132 + 1, 128.0, 4096.0), 132.0)
    assert full["idle_128x128"] == full["rows_128x128"] == 0.0
    assert float(over["idle_128x128"]) == pytest.approx(np.log(2.0), rel=0.02)
    assert 0.0 < float(over["rows_128x128"]) < 0.01


@pytest.mark.parametrize("name", OPS)
def test_never_much_faster_than_the_datasheet(name: str) -> None:
    op, accelerator = OPS[name], H100.accelerator
    bound = max(
        op.flops / accelerator.flops_per_second(getattr(op, "dtype", "bf16")),
        op.num_bytes / accelerator.memory_bytes_per_second,
    )
    assert bound < kernel_seconds(op, H100) < 20 * bound


@pytest.mark.parametrize("name", OPS)
def test_faster_memory_and_arithmetic_never_take_longer(name: str) -> None:
    accelerator = H100.accelerator
    better = accelerator.model_copy(
        update={
            "memory_bytes_per_second": 2.0 * accelerator.memory_bytes_per_second,
            "peak_flops_per_second": {dtype: 2.0 * peak for dtype, peak in accelerator.peak_flops_per_second.items()},
        }
    )
    faster = H100.model_copy(update={"accelerator": better})
    assert kernel_seconds(OPS[name], faster) < kernel_seconds(OPS[name], H100)


def test_arrays_price_as_their_elements() -> None:
    sizes = np.array([1.0, 17.0, 256.0, 5000.0])
    columns: list[tuple[Kernel, str]] = [
        (replace(OPS["gemm"], m=sizes), "m"),
        (replace(OPS["prefill"], query_length=sizes, key_length=sizes), ""),
        (replace(OPS["decode"], context_length=sizes), "context_length"),
        (replace(OPS["experts"], rows=sizes), "rows"),
        (replace(OPS["elementwise"], num_bytes=1e4 * sizes), "num_bytes"),
    ]
    for op, field in columns:
        prices = np.asarray(kernel_seconds(op, H100))
        for row, size in enumerate(sizes):
            size = 1e4 * size if field == "num_bytes" else size
            one = replace(op, **{field: size}) if field else replace(op, query_length=size, key_length=size)
            assert prices[row] == pytest.approx(float(kernel_seconds(one, H100)), rel=1e-12)


def test_cached_weights_are_faster_and_quantised_ones_smaller() -> None:
    cold = Gemm(16.0, 4096.0, 4096.0, library="trtllm", form="bf16")
    assert kernel_seconds(replace(cold, cached_fraction=1.0), H100) < kernel_seconds(cold, H100)
    assert replace(cold, form="nvfp4").num_bytes < replace(cold, form="fp8").num_bytes < cold.num_bytes


def test_few_rows_read_few_experts() -> None:
    many = OPS["experts"]
    assert isinstance(many, ExpertLayer)
    few = replace(many, tokens=1.0, rows=8.0)
    assert few.active_experts == pytest.approx(8.0, rel=0.05)
    assert replace(few, skew=1.2).active_experts < few.active_experts
    assert kernel_seconds(few, H100) < kernel_seconds(many, H100) / 4
    assert many.flops == 6.0 * 32768 * 4096 * 1536
    assert replace(many, num_matrices=2.0).flops == many.flops / 1.5


def test_memory_alone_does_not_bound_an_8_bit_cache() -> None:
    """Twice the memory rate gains less where keys and values must be converted: H200 against H100."""
    decode = OPS["decode"]
    assert isinstance(decode, DecodeAttention)
    h200 = catalog.cluster("h200-sxm", 1)
    gains = {
        kv_dtype: kernel_seconds(replace(decode, kv_dtype=kv_dtype), H100)
        / kernel_seconds(replace(decode, kv_dtype=kv_dtype), h200)
        for kv_dtype in ("bf16", "fp8")
    }
    assert 1.0 < gains["fp8"] < gains["bf16"] < 4800 / 3350


def test_what_nobody_measured_is_less_sure() -> None:
    b200, b300 = (catalog.accelerator(name) for name in ("b200-sxm", "b300-sxm"))
    for op in OPS.values():
        assert 0.0 < library_error_fraction(op, H100.accelerator) < 1.0  # type: ignore[arg-type]
    product = Gemm(512.0, 8192.0, 8192.0, library="trtllm", form="nvfp4")
    assert library_error_fraction(product, b300) > 1.2 * library_error_fraction(product, b200)


def test_a_sibling_runs_at_its_own_rates() -> None:
    decode = OPS["decode"]
    h200 = catalog.cluster("h200-sxm", 1)
    gain = kernel_seconds(decode, H100) / kernel_seconds(decode, h200)
    assert 1.2 < gain < 4800 / 3350
    assert library_gemm_seconds(Gemm(8192.0, 8192.0, 8192.0, library="vllm"), h200.accelerator) == pytest.approx(
        library_gemm_seconds(Gemm(8192.0, 8192.0, 8192.0, library="vllm"), H100.accelerator), rel=0.02
    )


def test_what_nobody_measured_is_named() -> None:
    with pytest.raises(ValueError, match="mi300x: no library's kernels"):
        kernel_seconds(OPS["gemm"], catalog.cluster("mi300x", 1))
    with pytest.raises(ValueError, match=r"nvfp4.*h100-sxm"):
        kernel_seconds(Gemm(8.0, 4096.0, 4096.0, library="vllm", form="nvfp4"), H100)
    with pytest.raises(ValueError, match="no matrix product is called 'int3'"):
        form_of("int3")


def test_an_unmeasured_library_borrows_the_kernel_of_another() -> None:
    op = Gemm(512.0, 8192.0, 8192.0, library="sglang", form="int4_wo")
    l40s = catalog.cluster("l40s", 1)
    assert kernel_seconds(op, l40s) == kernel_seconds(replace(op, library="trtllm"), l40s)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_physical_and_known(name: str) -> None:
    record = FAMILIES[name]
    assert isinstance(record, LibraryCurves)
    for accelerator, stand_in in record.accelerators.items():
        assert catalog.accelerator(accelerator).name == accelerator
        assert catalog.library_curves(accelerator) == record
        assert stand_in in record.accelerators
    for table in record.gemm.values():
        for curve in table.curves.values():
            assert 0 < curve.compute_efficiency_fraction <= 1
            assert 0 < curve.memory_efficiency_fraction <= 1
    for fit in record.fits().values():
        assert fit.num_points >= 100
        assert fit.held_out_median_error_fraction is not None
    assert to_toml(LibraryCurves(**tomllib.loads(to_toml(record)))) == to_toml(record)


@given(st.floats(1.0, 1e4), st.floats(0.0, 1e4), st.floats(1.0, 1e4))
def test_pairs_of_chunks_and_windows_add_up(new: float, past: float, window: float) -> None:
    """A prompt in two chunks has the pairs of the whole; a window never has more, and a wide one as many."""
    op = Attention(1.0, 1.0, 1.0, new, past + new, 128.0, 128.0, past_length=past)
    whole = Attention(1.0, 1.0, 1.0, past + new, past + new, 128.0, 128.0)
    first = Attention(1.0, 1.0, 1.0, past, past, 128.0, 128.0)
    assert first.num_pairs + op.num_pairs == pytest.approx(whole.num_pairs)
    assert replace(op, window_length=window).num_pairs <= op.num_pairs * (1 + 1e-9)
    assert replace(op, window_length=past + new).num_pairs == pytest.approx(op.num_pairs)
    assert replace(op, window_length=np.inf).num_pairs == pytest.approx(op.num_pairs)


def test_forms_are_as_wide_as_they_say() -> None:
    assert {name: form.weight_bytes for name, form in FORMS.items() if form.weight_bytes < 1.0} == {
        "nvfp4": 0.5625, "int4_wo": 0.515625, "w4a16_mxfp4": 0.53125, "w4a8_mxfp4_mxfp8": 0.53125, "fp8_2of4": 0.625,
    }  # fmt: skip
    assert form_of("fp32").weight_bytes == 4.0


def test_running_requests_beside_prompts_read_keys_again() -> None:
    """More so the more query heads share a key head; not where prompts have kernels of their own, nor alone."""
    device = catalog.accelerator("rtx-pro-6000")
    few, many = (mixed_attention_factor("vllm", heads, device) for heads in (4.0, 8.0))
    assert 1.3 < few < many < 4.0
    assert mixed_attention_factor("vllm", 1.0, device) == 1.0
    assert mixed_attention_factor("trtllm", 8.0, device) == 1.0
    assert mixed_attention_factor("vllm", 8.0, catalog.accelerator("b200-sxm")) == 1.0
    shard, model, cluster = ServedShard(), catalog.model("llama3.1-8b"), catalog.cluster("rtx-pro-6000", 1)
    prices = engine_prices(model, shard, cluster, catalog.engine("vllm"))
    mixed = IterationShape((512,), (0,), 64, 64 * 1000.0)
    apart = replace(prices, mixed_attention_factor=1.0)
    again = (few - 1.0) * prices.decode(64.0, 1000.0)
    assert prices.iteration_seconds(mixed) - apart.iteration_seconds(mixed) == pytest.approx(again, rel=1e-6)
    assert prices.decode_line(64, 64_000.0) == apart.decode_line(64, 64_000.0)
