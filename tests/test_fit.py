import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.collectives import message_seconds
from planner.cost.kernels import Rates, attention_seconds, elementwise_seconds, gemm_seconds
from planner.work.ops import Attention, Elementwise, Gemm
from profiles import catalog
from profiles.calibration import AttentionCurve, CollectiveCurve, ElementwiseCurve, Fit, GemmCurve, LinkCurves
from profiles.cluster import Cluster
from profiles.units import GIGA, MICRO, TERA
from validate.calibration.fit import (
    Origin,
    fit_attention,
    fit_collective,
    fit_elementwise,
    fit_gemm,
    fit_outer_tier,
)

ORIGIN = Origin("a made-up device", "2026-11", "a test")
RATES = Rates(300 * TERA, 2000 * GIGA)
FIT = Fit(machine="truth", date="2026", num_points=0, source="a test")
GEMM = GemmCurve(
    compute_efficiency_fraction=0.75, memory_efficiency_fraction=0.85, launch_seconds=6 * MICRO,
    inner_seconds=0.5 * MICRO, exponent=2.0, fit=FIT,
)  # fmt: skip


def held_out_errors(fit: Fit) -> tuple[float, float]:
    """Median and 90th percentile of |predicted / measured - 1| on shapes left out."""
    assert fit.held_out_median_error_fraction is not None
    assert fit.held_out_p90_error_fraction is not None
    return fit.held_out_median_error_fraction, fit.held_out_p90_error_fraction


def shapes(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    m, n, k = 64 * np.exp(rng.uniform(0, 5, (3, count))).round()
    return m, n, k


def test_gemm_parameters_are_found_again() -> None:
    m, n, k = shapes(300)
    curve = fit_gemm(m, n, k, gemm_seconds(Gemm(m, n, k), GEMM, RATES), RATES, "bf16", ORIGIN)
    for name in ("compute_efficiency_fraction", "memory_efficiency_fraction", "launch_seconds"):
        assert getattr(curve, name) == pytest.approx(getattr(GEMM, name), rel=0.05)
    assert curve.exponent == pytest.approx(2.0, rel=0.15)
    median, p90 = held_out_errors(curve.fit)
    assert median < 0.005
    assert p90 < 0.02
    assert curve.fit.num_points == 300
    assert curve.fit.machine == "a made-up device"


def test_held_out_error_tells_the_noise() -> None:
    m, n, k = shapes(600)
    noise = np.exp(np.random.default_rng(2).normal(0.0, 0.1, m.shape))
    curve = fit_gemm(m, n, k, gemm_seconds(Gemm(m, n, k), GEMM, RATES) * noise, RATES, "bf16", ORIGIN)
    median, p90 = held_out_errors(curve.fit)
    assert median == pytest.approx(0.0674, rel=0.2)  # of a normal distribution with deviation 0.1
    assert p90 == pytest.approx(0.1645, rel=0.2)


def test_outliers_do_not_move_a_fit() -> None:
    m, n, k = shapes(300)
    seconds = gemm_seconds(Gemm(m, n, k), GEMM, RATES)
    seconds[::10] *= 5.0
    curve = fit_gemm(m, n, k, seconds, RATES, "bf16", ORIGIN)
    assert curve.compute_efficiency_fraction == pytest.approx(0.75, rel=0.05)


def test_weights_choose_among_back_ends() -> None:
    m, n, k = (np.tile(column, 2) for column in shapes(200))
    slow = np.repeat([False, True], 200)
    seconds = gemm_seconds(Gemm(m, n, k), GEMM, RATES) * np.where(slow, 1.5, 1.0)
    fast = fit_gemm(m, n, k, seconds, RATES, "bf16", ORIGIN, weights=np.where(slow, 0.01, 1.0))
    assert fast.compute_efficiency_fraction == pytest.approx(0.75, rel=0.05)


def test_repeats_of_a_shape_stay_in_one_fold() -> None:
    """Each shape is off by its own factor; shared between folds, the second repeat would vouch for the first."""
    m, n, k = shapes(40)
    own = np.exp(np.random.default_rng(3).normal(0.0, 0.3, m.shape))
    seconds = gemm_seconds(Gemm(m, n, k), GEMM, RATES) * own
    once = fit_gemm(m, n, k, seconds, RATES, "bf16", ORIGIN)
    twice = fit_gemm(*(np.tile(column, 2) for column in (m, n, k, seconds)), RATES, "bf16", ORIGIN)
    assert held_out_errors(twice.fit)[0] == pytest.approx(held_out_errors(once.fit)[0], rel=0.1)


def test_attention_parameters_are_found_again() -> None:
    truth = AttentionCurve(
        compute_efficiency_fraction=0.8, memory_efficiency_fraction=0.7, launch_seconds=10 * MICRO, half_length=300.0,
        half_dim=50.0, backward_ratio=0.9, fit=FIT,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    batch, heads = 2.0 ** rng.integers(0, 5, (2, 400))
    length, dim = 2.0 ** rng.integers(8, 15, 400), rng.choice([64.0, 128.0, 256.0], 400)
    ops = Attention(batch, heads, heads, length, length, dim, dim)
    curve = fit_attention(ops, attention_seconds(ops, truth, RATES), RATES, ORIGIN, backward_ratio=0.9)
    assert curve.half_length == pytest.approx(300.0, rel=0.1)
    assert curve.half_dim == pytest.approx(50.0, rel=0.15)
    assert curve.compute_efficiency_fraction == pytest.approx(0.8, rel=0.05)
    assert curve.backward_ratio == 0.9


def test_one_head_dimension_leaves_its_ramp_at_the_prior() -> None:
    length = 2.0 ** np.arange(8, 16)
    ops = Attention(4.0, 16.0, 16.0, length, length, 128.0, 128.0)
    seconds = ops.flops / (0.5 * RATES.flops_per_second) + 10 * MICRO
    curve = fit_attention(ops, seconds, RATES, ORIGIN)
    assert curve.half_dim == pytest.approx(40.0, rel=0.1)
    assert attention_seconds(ops, curve, RATES) == pytest.approx(seconds, rel=0.25)


def test_elementwise_parameters_are_found_again() -> None:
    truth = ElementwiseCurve(memory_efficiency_fraction=0.6, launch_seconds=5 * MICRO, fit=FIT)
    num_bytes = np.geomspace(1e3, 1e10, 60)
    curve = fit_elementwise(num_bytes, elementwise_seconds(Elementwise(num_bytes), truth, 2e12), 2e12, ORIGIN)
    assert curve.memory_efficiency_fraction == pytest.approx(0.6, rel=0.01)
    assert curve.launch_seconds == pytest.approx(5 * MICRO, rel=0.01)


def truth_cluster(curve: CollectiveCurve) -> Cluster:
    node = catalog.cluster("dgx-h100", 64)
    curves = LinkCurves(name="x", source="test", link_class="network", collectives={"all_reduce": curve})
    return node.model_copy(update={"tiers": (node.tiers[0], node.tiers[1].model_copy(update={"curves": curves}))})


def test_collectives_are_fitted_by_group_size() -> None:
    truth = CollectiveCurve(
        num_ranks=(2, 4, 8), latency_seconds=(6e-6, 9e-6, 15e-6), bus_fraction=(0.6, 0.7, 0.9),
        exponent=(0.6, 0.7, 0.8), fit=FIT,
    )  # fmt: skip
    ranks, num_bytes = (column.ravel() for column in np.meshgrid([2.0, 4.0, 8.0], np.geomspace(512, 1e9, 25)))
    made = truth_cluster(truth)
    network = made.model_copy(
        update={"tiers": (made.tiers[1].model_copy(update={"num_devices": 8}),), "num_devices": 8}
    )
    seconds = message_seconds("all_reduce", num_bytes, ranks, 1, network)
    curve = fit_collective("all_reduce", ranks, num_bytes, seconds, 50 * GIGA, ORIGIN)
    assert curve.num_ranks == (2, 4, 8)
    for name in ("latency_seconds", "bus_fraction", "exponent"):
        assert getattr(curve, name) == pytest.approx(getattr(truth, name), rel=0.1)


def test_the_outer_tier_is_fitted_over_known_inner_ones() -> None:
    truth = CollectiveCurve(
        num_ranks=(2, 8), latency_seconds=(40e-6, 90e-6), bus_fraction=(0.9, 0.8), exponent=(1.0, 0.8), fit=FIT
    )
    made = truth_cluster(truth)
    sizes, num_bytes = (column.ravel() for column in np.meshgrid([16.0, 64.0], np.geomspace(512, 1e10, 25)))
    seconds = message_seconds("all_reduce", num_bytes, sizes, 1, made)
    curve = fit_outer_tier("all_reduce", made, sizes, num_bytes, seconds, ORIGIN)
    assert curve.num_ranks == (2, 8)
    for name in ("latency_seconds", "bus_fraction", "exponent"):
        assert getattr(curve, name) == pytest.approx(getattr(truth, name), rel=0.1)


@settings(max_examples=15)
@given(st.integers(1, 4), st.floats(1e-7, 1e2))
def test_a_handful_of_points_still_gives_a_valid_curve(count: int, seconds: float) -> None:
    curve = fit_elementwise(np.linspace(1e6, 1e9, count), np.full(count, seconds), 1e12, ORIGIN)
    assert 0 < curve.memory_efficiency_fraction <= 1
    assert (curve.fit.held_out_median_error_fraction is None) == (count == 1)


def test_without_held_out_points_there_is_no_error_to_state() -> None:
    curve = fit_elementwise(1e6, [1e-5], 1e12, ORIGIN)
    assert curve.fit.held_out_median_error_fraction is None
    assert curve.fit.held_out_p90_error_fraction is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.0, 2.0], [1.0]), "num_bytes: 2 values, but seconds has 1"),
        (([1.0, -2.0], [1.0, 1.0]), "num_bytes: -2.0 is not a positive, finite number"),
        (([1.0, 2.0], [1.0, np.nan]), "seconds: nan is not a positive, finite number"),
        (([], []), "give at least one of each"),
    ],
)
def test_bad_columns_are_named(columns: tuple[list[float], list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_elementwise(*columns, 1e12, ORIGIN)
