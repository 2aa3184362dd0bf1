"""Amounts as people read them: tokens, dollars, days. How they are written: `meshwise.capacity.quantities`."""

import math

from profiles.units import DAY, GIGA, HOUR, KILO, MEGA, MINUTE, TERA

_LARGE = ((TERA, "T"), (GIGA, "B"), (MEGA, "M"), (KILO, "k"))


def amount(value: float) -> str:
    """Three digits and the letter of its thousands: `15 T`, `70.6 B`, `950`."""
    size, letter = _scale(value)
    return f"{value / size:.3g} {letter}".rstrip()


def money(dollars: float) -> str:
    """Dollars to three or four digits: `$0.0612`, `$1,204`, `$12.3k`, `$4.56M`; "never" of what has no end."""
    if not math.isfinite(dollars):
        return "never"
    if KILO <= dollars < 10.0 * KILO:
        return f"${dollars:,.0f}"
    size, letter = _scale(dollars)
    return f"${dollars / size:.3g}{letter}"


def days(seconds: float) -> str:
    """Whole days; of fewer than ten, three digits."""
    return f"{seconds / DAY:,.0f}" if seconds >= 10.0 * DAY else f"{seconds / DAY:.3g}"


def long_time(seconds: float) -> str:
    """Seconds in the largest unit that leaves at least two of it."""
    for unit, size in (("days", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _scale(value: float) -> tuple[float, str]:
    """The largest unit that leaves at least one of it when written to three digits."""
    return next((one for one in _LARGE if value >= 0.9995 * one[0]), (1.0, ""))
