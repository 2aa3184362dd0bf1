"""Amounts as buyers write them: 15T tokens, 5M dollars, 90d or a date, 64-4096 devices."""

import re
from datetime import date, timedelta

from profiles.units import DAY, GIGA, HOUR, KILO, MEGA, TERA

_SCALES = {"": 1.0, "k": KILO, "m": MEGA, "g": GIGA, "b": GIGA, "t": TERA}
_AMOUNT = re.compile(r"\$?\s*([0-9][0-9_,]*(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*([kmgbt]?)", re.IGNORECASE)
_SPANS = {"h": HOUR, "d": DAY, "w": 7.0 * DAY, "y": 365.25 * DAY}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*([hdwy])(?:ours?|ays?|eeks?|ears?)?", re.IGNORECASE)
MAX_COUNTS = 256
"""Numbers of devices a range may hold."""


def amount(value: object, field: str, example: str) -> float:
    """`15T`, `5M`, `$2,500,000` or a number as a float above 0; raises ValueError naming the field and an example."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    else:
        text = _AMOUNT.fullmatch(str(value).strip())
        if text is None:
            raise ValueError(f"{field}: {value!r} is not an amount, e.g. {example}")
        found = float(text[1].replace(",", "").replace("_", "")) * _SCALES[text[2].lower()]
    if not 0.0 < found < float("inf"):
        raise ValueError(f"{field}: must be above 0, got {value}")
    return found


def day(value: object, field: str) -> date:
    """`2027-03-01` as a date; raises ValueError naming the field."""
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(f"{field}: {value!r} is not a date, e.g. 2027-03-01") from None


def span_seconds(value: object, start: date, field: str) -> float:
    """`90d`, `6w`, `1.5y` or a date as seconds after `start`; raises ValueError for neither, or a date before it."""
    if isinstance(value, str) and (text := _SPAN.fullmatch(value.strip())):
        found = float(text[1]) * _SPANS[text[2].lower()]
    elif isinstance(value, date) or (isinstance(value, str) and value.strip()[:4].isdecimal() and "-" in value):
        found = (day(value, field) - start) / timedelta(seconds=1)
        if found <= 0.0:
            raise ValueError(f"{field}: {value} is not after the start, {start}")
    else:
        raise ValueError(f"{field}: {value!r} is neither a span nor a date, e.g. 90d or 2027-03-01")
    if found <= 0.0:
        raise ValueError(f"{field}: must be above 0, got {value}")
    return found


def counts(text: str, field: str) -> tuple[int, ...]:
    """`64,128`, `64-4096` (doublings) or `64-512:64` (steps) as numbers of devices, ascending, each once.

    Raises ValueError naming the field, the text and what is right.
    """
    wrong = ValueError(f"{field}: {text!r} is not a list of numbers of devices, e.g. 64,128 or 64-4096 or 64-512:64")
    found: set[int] = set()
    for word in text.split(","):
        span = re.fullmatch(r"\s*([0-9]{1,8})\s*(?:-\s*([0-9]{1,8})\s*(?::\s*([0-9]{1,8}))?)?\s*", word)
        if span is None:
            raise wrong
        first, last = int(span[1]), int(span[2] or span[1])
        step = int(span[3]) if span[3] else None
        if first < 1 or last < first or step == 0 or (step and (last - first) // step >= MAX_COUNTS):
            raise wrong
        one = first
        while one <= last:
            found.add(one)
            one = one + step if step else 2 * one
    return tuple(sorted(found))
