"""Factors by message size: kept where they tell left-out sizes better, and priced as they were measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.collectives import size_factor
from profiles.calibration import CollectiveCurve, Fit
from validate.calibration.fit import Origin, fit_collective
from validate.calibration.fit_sizes import curve_seconds, joined, with_size_factors

RATE = 10e9
SIZES = 2.0 ** np.arange(10, 31)
FIT = Fit(machine="x", date="2026", num_points=1, source="a test")


def fitted(seconds: np.ndarray, ranks: float = 2.0) -> CollectiveCurve:
    wire = 2.0 * (ranks - 1.0) / ranks * SIZES
    smooth = fit_collective("all_reduce", ranks, SIZES, seconds, RATE, Origin("x", "2026", "a test"))
    return with_size_factors(smooth, wire, seconds, lambda curve: curve_seconds(curve, wire, RATE))


def kneed(size: np.ndarray) -> np.ndarray:
    """Three times as slow above 4 MB, where buffers leave the caches."""
    return np.where(size > 4e6, 3.0, 1.0) * size / RATE + 50e-6


def test_a_knee_is_met_by_factors() -> None:
    curve = fitted(kneed(SIZES))
    assert curve.size_factor
    assert curve_seconds(curve, SIZES, RATE) == pytest.approx(kneed(SIZES), rel=0.02)
    between = np.sqrt(2.0) * SIZES[:-1]
    away = (between < 2e6) | (between > 6e6)
    assert curve_seconds(curve, between, RATE)[away] == pytest.approx(kneed(between)[away], rel=0.12)
    assert (curve.fit.held_out_median_error_fraction or 1.0) < 0.1


def test_a_smooth_curve_needs_none() -> None:
    smooth = SIZES / RATE + 50e-6
    plain = fit_collective("all_reduce", 2.0, SIZES, smooth, RATE, Origin("x", "2026", "a test"))
    noise = np.exp(np.random.default_rng(1).normal(0.0, 0.1, SIZES.shape))
    curve = fitted(curve_seconds(plain, SIZES, RATE) * noise)
    assert curve.size_factor == ()


@given(st.lists(st.floats(0.2, 5.0), min_size=2, max_size=6), st.integers(0, 10**6))
def test_factors_hold_at_their_sizes_and_stay_between_them(factors: list[float], seed: int) -> None:
    knots = tuple(1e3 * 10.0**index for index in range(len(factors)))
    curve = CollectiveCurve(
        num_ranks=(2, 8), latency_seconds=(1e-5, 1e-5), bus_fraction=(1.0, 1.0), exponent=(1.0, 1.0), fit=FIT,
        size_bytes=(knots, knots), size_factor=(tuple(factors), tuple(2.0 * factor for factor in factors)),
    )  # fmt: skip
    at = np.array(knots)
    assert size_factor(curve, at, np.full(at.shape, 2.0)) == pytest.approx(factors)
    assert size_factor(curve, at, np.full(at.shape, 4.0)) == pytest.approx(np.array(factors) * np.sqrt(2.0))
    some = np.exp(np.random.default_rng(seed).uniform(0, 30, 20))
    found = size_factor(curve, some, np.full(some.shape, 8.0))
    assert (found >= 2.0 * min(factors) - 1e-9).all()
    assert (found <= 2.0 * max(factors) + 1e-9).all()


def test_groups_join_into_one_table() -> None:
    plain = fit_collective("all_reduce", 4.0, SIZES[:4], SIZES[:4] / RATE + 1e-5, RATE, Origin("x", "2026", "a test"))
    table = joined([plain, fitted(kneed(SIZES))])
    assert table.num_ranks == (2, 4)
    assert [len(row) for row in table.size_factor] == [len(SIZES), 1]
    assert table.fit.num_points == len(SIZES) + 4


@pytest.mark.parametrize(
    ("sizes", "factors"),
    [(((1.0, 2.0),), ((1.0,),)), (((2.0, 1.0),), ((1.0, 1.0),)), (((1.0,), (1.0,)), ((1.0,),) * 2)],
)
def test_tables_of_another_shape_are_refused(sizes: tuple, factors: tuple) -> None:
    with pytest.raises(ValueError, match=r"one equally long row|must increase strictly"):
        CollectiveCurve(
            num_ranks=(2,), latency_seconds=(1e-5,), bus_fraction=(1.0,), exponent=(1.0,), fit=FIT, size_bytes=sizes,
            size_factor=factors,
        )  # fmt: skip
