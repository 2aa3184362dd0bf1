from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.kernels import Rates, gemm_seconds, grouped_gemm_seconds, kernel_seconds, smooth_max
from planner.work.ops import Attention, Elementwise, Gemm, GroupedGemm, Kernel, Listed
from profiles import catalog
from profiles.calibration import Fit, GemmCurve, GroupedGemmCurve
from profiles.cluster import Cluster
from profiles.units import GIGA, MICRO, TERA

CLUSTER = catalog.cluster("dgx-h100", 16)
CURVE = GemmCurve(
    compute_efficiency_fraction=0.5,
    memory_efficiency_fraction=0.5,
    launch_seconds=3e-6,
    inner_seconds=1e-6,
    exponent=2.0,
    misaligned_factor=2.0,
    misaligned_batched_factor=20.0,
    fit=Fit(machine="none", date="2026", num_points=0, source="a test"),
)
OPS: dict[str, Kernel] = {
    "gemm": Gemm(4096.0, 4096.0, 8192.0),
    "batched gemm": Gemm(2048.0, 2048.0, 128.0, batch=32.0),
    "grouped gemm": GroupedGemm(16384.0, 2048.0, 4096.0, experts=8.0),
    "attention": Attention(2.0, 16.0, 4.0, 4096.0, 4096.0, 128.0, 128.0, kernel="flash-3"),
    "elementwise": Elementwise(1e8),
    "listed": Listed(1e11, 1e8),
}
sizes = st.floats(8.0, 1e5)


def test_gemm_by_hand() -> None:
    rates = Rates(100 * TERA, 1000 * GIGA)
    compute, memory = 2 * 1024**3 / 50e12, 6 * 1024**2 / 500e9
    expected = np.hypot(compute, memory) + 3e-6 + 1e-6
    assert gemm_seconds(Gemm(1024.0, 1024.0, 1024.0), CURVE, rates) == pytest.approx(expected)


def test_a_dimension_that_is_no_multiple_of_8_runs_slower() -> None:
    rates = Rates(1 * TERA, 1000 * TERA)  # nothing but compute
    padded, odd = (gemm_seconds(Gemm(8192.0, vocabulary, 4096.0), CURVE, rates) for vocabulary in (50264.0, 50257.0))
    assert odd / padded == pytest.approx(2.0, rel=1e-3)
    heads = [gemm_seconds(Gemm(2048.0, 2048.0, dim, batch=64.0), CURVE, rates) / dim for dim in (104.0, 108.0)]
    assert heads[1] / heads[0] == pytest.approx(20.0, rel=1e-2)
    token_count_is_free = gemm_seconds(Gemm(8191.0, 50264.0, 4096.0), CURVE, rates)
    assert token_count_is_free == pytest.approx(padded, rel=1e-3)


@given(sizes, sizes, sizes, st.floats(1.0, 256.0), st.floats(1.0, 100.0))
def test_expert_products_grow_with_every_dimension(
    rows: float, n: float, k: float, experts: float, factor: float
) -> None:
    def seconds(*fields: float) -> float:
        return float(kernel_seconds(GroupedGemm(*fields), CLUSTER))

    base = seconds(rows, n, k, experts)
    larger = [(rows * factor, n, k), (rows, n * factor, k), (rows, n, k * factor)]
    assert 0 < base <= min(seconds(*shape, experts) for shape in larger) * (1 + 1e-12)
    assert base <= seconds(rows, n, k, experts * factor) * (1 + 1e-12)


def test_expert_products_do_as_much_as_their_parts() -> None:
    op = GroupedGemm(16384.0, 2048.0, 4096.0, experts=8.0)
    parts = Gemm(2048.0, 2048.0, 4096.0, batch=8.0)
    assert op.flops == parts.flops
    assert op.num_bytes == pytest.approx(parts.num_bytes, rel=1e-3)
    assert sum(grad.flops for grad in op.backward()) == 2.0 * op.flops
    few = GroupedGemm(4.0, 2048.0, 4096.0, experts=256.0)
    assert few.active_experts == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_expert_products_stay_below_plain_ones(dtype: str) -> None:
    """Fused layers of large experts reach 0.83 of the rate of plain products."""
    experts = kernel_seconds(GroupedGemm(65536.0, 8192.0, 8192.0, experts=8.0, dtype=dtype), CLUSTER)
    plain = kernel_seconds(Gemm(65536.0, 8192.0, 8192.0, dtype=dtype), CLUSTER)
    assert 1.1 < experts / plain < 1.35


def test_half_empty_tiles_cost_compute() -> None:
    rates = Rates(1 * TERA, 1000 * TERA)  # nothing but compute
    curve = GroupedGemmCurve(
        compute_efficiency_fraction=1.0, memory_efficiency_fraction=1.0, launch_seconds=0.0, num_tile_rows=64.0,
        fit=CURVE.fit,
    )  # fmt: skip
    op = GroupedGemm(64000.0, 128.0, 128.0, experts=1000.0)
    assert grouped_gemm_seconds(op, curve, rates) == pytest.approx(1.5 * op.flops / (1 * TERA))


def test_backward_attention_runs_at_its_own_rate() -> None:
    forward = Attention(8.0, 32.0, 32.0, 8192.0, 8192.0, 128.0, 128.0, kernel="flash-3")
    (backward,) = forward.backward()
    ratio = CLUSTER.kernels.attention_curve("flash-3").backward_ratio
    times = kernel_seconds(backward, CLUSTER) / kernel_seconds(forward, CLUSTER)
    assert times == pytest.approx(2.5 / ratio, rel=0.05)


def test_narrow_heads_reach_less_of_the_peak() -> None:
    wide = Attention(8.0, 16.0, 16.0, 8192.0, 8192.0, 128.0, 128.0, kernel="flash-3")
    narrow = Attention(8.0, 32.0, 32.0, 8192.0, 8192.0, 64.0, 64.0, kernel="flash-3")
    assert wide.flops == narrow.flops
    assert 0.6 < kernel_seconds(wide, CLUSTER) / kernel_seconds(narrow, CLUSTER) < 0.85


def test_unknown_operations_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="no price for str"):
        kernel_seconds("gemm", CLUSTER)  # type: ignore[arg-type]


def test_a_dtype_without_a_peak_is_named() -> None:
    a100 = catalog.cluster("dgx-a100", 8)
    with pytest.raises(ValueError, match="fp8"):
        kernel_seconds(Gemm(64.0, 64.0, 64.0, dtype="fp8"), a100)


def test_twice_the_precision_takes_longer() -> None:
    times = [kernel_seconds(Gemm(8192.0, 8192.0, 8192.0, dtype=dtype), CLUSTER) for dtype in ("fp8", "bf16", "fp32")]
    assert times == sorted(times)


@pytest.mark.parametrize("name", OPS)
def test_never_faster_than_the_datasheet(name: str) -> None:
    op, accelerator = OPS[name], CLUSTER.accelerator
    bound = max(
        op.flops / accelerator.flops_per_second(getattr(op, "dtype", "bf16")),
        op.num_bytes / accelerator.memory_bytes_per_second,
    )
    assert kernel_seconds(op, CLUSTER) > bound


@pytest.mark.parametrize("name", OPS)
def test_more_launches_cost_more(name: str) -> None:
    op = OPS[name]
    one, four = (kernel_seconds(replace(op, num_launches=count), CLUSTER) for count in (1.0, 4.0))
    assert 3 * 0.5 * MICRO < four - one < 3 * 30 * MICRO


@given(sizes, sizes, sizes, st.floats(1.0, 100.0))
def test_gemm_grows_with_every_dimension(m: float, n: float, k: float, factor: float) -> None:
    def seconds(m: float, n: float, k: float) -> float:
        return float(kernel_seconds(Gemm(8 * np.round(m), 8 * np.round(n), 8 * np.round(k)), CLUSTER))

    base = seconds(m, n, k)
    assert (
        0 < base <= min(seconds(m * factor, n, k), seconds(m, n * factor, k), seconds(m, n, k * factor)) * (1 + 1e-12)
    )


@given(st.lists(sizes, min_size=1, max_size=20))
def test_arrays_price_as_their_elements(columns: list[float]) -> None:
    m = np.round(np.array(columns))
    for op in (
        Gemm(m, 4096.0, 1024.0),
        GroupedGemm(m, 4096.0, 1024.0, experts=16.0),
        Attention(1.0, 8.0, 8.0, m, m, 128.0, 128.0),
        Elementwise(m),
        Listed(m * 1e6, m),
    ):
        prices = kernel_seconds(op, CLUSTER)
        assert prices.shape == m.shape
        for row in range(len(m)):
            assert prices[row] == pytest.approx(float(kernel_seconds(_row(op, row), CLUSTER)), rel=1e-12)


def _row(op: Kernel, row: int) -> Kernel:
    values = {field.name: getattr(op, field.name) for field in fields(op)}
    return replace(op, **{name: float(value[row]) for name, value in values.items() if isinstance(value, np.ndarray)})


@given(st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.floats(0.3, 20.0))
def test_smooth_max_lies_between_its_limits(first: float, second: float, exponent: float) -> None:
    value = float(smooth_max(first, second, exponent))
    larger = max(first, second)
    assert larger <= value * (1 + 1e-12)
    assert value <= larger * 2.0 ** (1.0 / exponent) * (1 + 1e-12)
    assert value == pytest.approx(float(smooth_max(second, first, exponent)))


def test_smooth_max_limits() -> None:
    assert smooth_max(0.0, 0.0, 2.0) == 0.0
    assert smooth_max(3.0, 4.0, 1.0) == pytest.approx(7.0)
    assert smooth_max(3.0, 4.0, 2.0) == pytest.approx(5.0)
    assert smooth_max(1e-320, 0.0, 2.0) == pytest.approx(1e-320)


@pytest.mark.parametrize("name", catalog.names("accelerators"))
def test_every_accelerator_has_prices(name: str) -> None:
    cluster = Cluster(
        name="one", source="test", accelerator=catalog.accelerator(name), num_devices=1,
        tiers=(CLUSTER.tiers[0].model_copy(update={"num_devices": 1}),),
        kernels=catalog.kernel_curves(name),
    )  # fmt: skip
    dtype = "bf16" if {"bf16", "fp16"} & set(cluster.accelerator.peak_flops_per_second) else "fp32"
    fast = cluster.accelerator.flops_per_second(dtype)
    op = Gemm(8192.0, 8192.0, 8192.0, dtype=dtype)
    share = op.flops / kernel_seconds(op, cluster) / fast
    assert 0.2 < share < 1.0
