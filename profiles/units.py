"""SI constants: the only file of the project that may hold 1e9 or 2**30.

Inside the project every quantity is an SI float with its unit in its name; vendor units live in TOML keys
and are converted once, here, by `from_vendor_units`.
"""

import math
from collections.abc import Mapping
from typing import Any

KILO, MEGA, GIGA, TERA = 1e3, 1e6, 1e9, 1e12
KIB, MIB, GIB = 2.0**10, 2.0**20, 2.0**30
MILLI, MICRO, NANO = 1e-3, 1e-6, 1e-9
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
YEAR = 365.25 * DAY
KWH = KILO * HOUR

DTYPE_BYTES: Mapping[str, float] = {
    "fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5,
}  # fmt: skip
"""Storage bytes of one element."""

_VENDOR_SUFFIXES: tuple[tuple[str, str, float], ...] = (
    ("_tflops", "_flops_per_second", TERA),
    ("_gb_per_second_per_device", "_bytes_per_second_per_device", GIGA),
    ("_gb_per_second", "_bytes_per_second", GIGA),
    ("_gb", "_bytes", GIGA),
    ("_gib", "_bytes", GIB),
    ("_mb", "_bytes", MEGA),
    ("_mib", "_bytes", MIB),
    ("_us", "_seconds", MICRO),
    ("_ms", "_seconds", MILLI),
    ("_minutes", "_seconds", MINUTE),
    ("_per_million_device_hours", "_per_device_second", 1.0 / (MEGA * HOUR)),
    ("_per_device_hour", "_per_device_second", 1.0 / HOUR),
    ("_per_instance_hour", "_per_instance_second", 1.0 / HOUR),
    ("commitment_days", "commitment_seconds", DAY),
    ("_years", "_seconds", YEAR),
    ("_grams_per_kwh", "_kilograms_per_joule", MILLI / KWH),
    ("_dollars_per_kwh", "_dollars_per_joule", 1.0 / KWH),
    ("_dollars_per_kw_month", "_dollars_per_watt_second", 12.0 / (KILO * YEAR)),
)


def from_vendor_units(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with vendor-unit keys (`memory_gb`, `peak_tflops`, `latency_us`) renamed and scaled to SI.

    A value may be a number or a mapping of numbers (peak FLOP/s by dtype). Other keys pass through untouched,
    as do values of another type: the record that receives them names the field in its own error. Raises
    ValueError when one quantity is given twice in different units.
    """
    converted: dict[str, Any] = {}
    for key, value in values.items():
        si_key, si_value = _convert(key, value)
        if si_key in converted:
            raise ValueError(f"{key} gives {si_key} a second time; keep one of the two")
        converted[si_key] = si_value
    return converted


def _convert(key: Any, value: Any) -> tuple[Any, Any]:
    if isinstance(key, str):
        padded = "_" + key  # so that a bare `gb_per_second` is recognised as well
        for suffix, si_suffix, factor in _VENDOR_SUFFIXES:
            if padded.endswith(suffix):
                return (padded[: -len(suffix)] + si_suffix)[1:], _scale(value, factor)
    return key, value


def _scale(value: Any, factor: float) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        try:
            return value * factor
        except OverflowError:  # an integer beyond floats: infinite, so the record rejects it by name
            return math.inf
    if isinstance(value, Mapping):
        return {key: _scale(item, factor) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scale(item, factor) for item in value]
    return value
