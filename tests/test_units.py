"""Vendor units in keys become SI, once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.units import DTYPE_BYTES, GIB, GIGA, MIB, from_vendor_units

VENDOR = {
    "memory_gb": ("memory_bytes", 1e9),
    "memory_gib": ("memory_bytes", 2.0**30),
    "cache_mb": ("cache_bytes", 1e6),
    "cache_mib": ("cache_bytes", 2.0**20),
    "memory_gb_per_second": ("memory_bytes_per_second", 1e9),
    "gb_per_second": ("bytes_per_second", 1e9),
    "latency_us": ("latency_seconds", 1e-6),
    "latency_ms": ("latency_seconds", 1e-3),
    "peak_tflops": ("peak_flops_per_second", 1e12),
}


@given(key=st.sampled_from(sorted(VENDOR)), value=st.floats(allow_nan=False, width=32))
def test_a_vendor_unit_is_renamed_and_scaled(key: str, value: float) -> None:
    name, factor = VENDOR[key]
    assert from_vendor_units({key: value}) == {name: value * factor}


@given(
    st.dictionaries(
        st.sampled_from(["name", "num_devices", "bytes_per_second", "power_watts", "stages"]),
        st.one_of(st.integers(), st.text(), st.floats(allow_nan=False), st.none()),
    )
)
def test_other_keys_pass_through(values: dict[str, object]) -> None:
    assert from_vendor_units(values) == values


def test_tables_and_lists_are_scaled_item_by_item() -> None:
    values = {"peak_tflops": {"bf16": 989.4, "note": "dense"}, "latency_us": [1, 2]}
    assert from_vendor_units(values) == {
        "peak_flops_per_second": {"bf16": 989.4e12, "note": "dense"},
        "latency_seconds": [1e-6, 2e-6],
    }


def test_what_is_not_a_number_is_left_to_the_record() -> None:
    assert from_vendor_units({"memory_gb": "eighty", "cache_mb": True}) == {
        "memory_bytes": "eighty",
        "cache_bytes": True,
    }


def test_an_integer_beyond_floats_becomes_infinite() -> None:
    assert math.isinf(from_vendor_units({"memory_gb": 10**400})["memory_bytes"])


@pytest.mark.parametrize("second", ["memory_gib", "memory_bytes"])
def test_one_quantity_given_twice_is_refused(second: str) -> None:
    with pytest.raises(ValueError, match=f"{second} gives memory_bytes a second time"):
        from_vendor_units({"memory_gb": 80, second: 80})


def test_decimal_and_binary_prefixes_differ() -> None:
    assert pytest.approx(1.073741824) == GIB / GIGA
    assert 1024 * MIB == GIB


def test_storage_halves_from_format_to_format() -> None:
    assert DTYPE_BYTES["fp32"] == 2 * DTYPE_BYTES["bf16"] == 4 * DTYPE_BYTES["fp8"] == 8 * DTYPE_BYTES["fp4"]
