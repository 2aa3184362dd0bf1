"""Amounts read as people write them, and say what they are to three digits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwise.amounts import amount, days, long_time, money
from meshwise.capacity import quantities
from profiles.units import DAY, HOUR, MINUTE

sizes = st.floats(1.0, 9e14)


@given(sizes)
def test_what_is_written_reads_as_the_same_amount(value: float) -> None:
    for text in (amount(value), money(value)):
        assert quantities.amount(text, "tokens", "15T") == pytest.approx(value, rel=0.005)


@given(sizes)
def test_no_amount_has_more_than_four_digits_or_an_exponent(value: float) -> None:
    for text in (amount(value), money(value)):
        assert "e" not in text
        assert len(re.sub(r"[^0-9]", "", text)) <= 4


@pytest.mark.parametrize(
    ("seconds", "text"), [(90.0, "90 s"), (2 * MINUTE, "2 min"), (47 * HOUR, "47 h"), (3.5 * DAY, "3.5 days")]
)
def test_long_times_take_the_largest_unit_that_leaves_two_of_it(seconds: float, text: str) -> None:
    assert long_time(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0.5, "0.5"), (9.52, "9.52"), (1234.0, "1,234")])
def test_days_are_whole_beyond_ten(number: float, text: str) -> None:
    assert days(number * DAY) == text


def test_what_has_no_end_is_never() -> None:
    assert money(float("inf")) == "never"
