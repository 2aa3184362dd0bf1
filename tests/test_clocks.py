"""A lower power limit on the same chip never makes it faster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import catalog
from profiles.clocks import clock_fraction

watts = st.floats(10.0, 2000.0)


@given(watts, watts)
def test_a_lower_limit_costs_clock_and_a_higher_one_adds_none(power: float, measured: float) -> None:
    fraction = clock_fraction(power, measured)
    assert 0.0 < fraction <= 1.0
    assert (fraction == 1.0) == (power >= measured)
    assert clock_fraction(0.5 * power, measured) <= fraction


@pytest.mark.parametrize(("board", "module"), [("h100-96gb-hbm2e", "h100-sxm"), ("a100-pcie-40gb", "a100-sxm-80gb")])
def test_boards_with_less_power_sustain_less(board: str, module: str) -> None:
    devices = [catalog.cluster(name, 1) for name in (board, module)]
    limited, whole = (one.kernels.sustained_fraction("bf16") for one in devices)
    expected = clock_fraction(*(one.accelerator.power_watts or 0.0 for one in devices))
    assert limited / whole == pytest.approx(expected)


def test_boards_with_the_same_power_sustain_the_same() -> None:
    assert catalog.cluster("h200-sxm", 1).kernels == catalog.cluster("h100-sxm", 1).kernels
