"""Records are frozen, know their fields, and have a source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from profiles.record import Count, Fraction, NonNegative, Positive, Record, Sourced


class Sample(Record):
    size_bytes: Positive = 1.0
    delay_seconds: NonNegative = 0.0
    share_fraction: Fraction = 0.5
    num_things: Count = 1


def test_a_record_is_frozen() -> None:
    sample = Sample()
    with pytest.raises(ValidationError, match="frozen"):
        sample.num_things = 2  # type: ignore[misc]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_thing"):
        Sample.model_validate({"num_thing": 1})


def test_vendor_units_are_taken_in_keys() -> None:
    assert Sample.model_validate({"size_gib": 2, "delay_us": 2}) == Sample(size_bytes=2.0 * 2**30, delay_seconds=2e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0])
@pytest.mark.parametrize("field", ["size_bytes", "delay_seconds", "share_fraction"])
def test_figures_are_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        Sample.model_validate({field: value})


@given(st.integers(max_value=0))
def test_counts_and_sizes_are_positive(value: int) -> None:
    for field in ("num_things", "size_bytes"):
        with pytest.raises(ValidationError, match=field):
            Sample.model_validate({field: value})


@pytest.mark.parametrize("missing", ["name", "source"])
@pytest.mark.parametrize("emptied", [True, False])
def test_without_name_or_source_nothing_loads(missing: str, emptied: bool) -> None:
    values = {"name": "x", "source": "a datasheet"}
    assert Sourced.model_validate(values).unverified == ()
    values = {**values, missing: ""} if emptied else {key: values[key] for key in values if key != missing}
    with pytest.raises(ValidationError, match=missing):
        Sourced.model_validate(values)
