"""Write a record as TOML that reads back as an equal record."""

import json
from collections.abc import Mapping
from typing import Any

from profiles.record import Record
from profiles.units import MICRO

_SIGNIFICANT_DIGITS = 5


def to_toml(record: Record) -> str:
    """`record` as TOML: defaults left out, seconds in microseconds, fractions to five significant digits.

    A record inside becomes a table, a tuple of records an array of tables; a record that holds only plain values,
    such as a `Fit`, becomes an inline table.
    """
    return "\n".join(_lines(record.model_dump(exclude_defaults=True), ())).lstrip("\n") + "\n"


def _lines(values: Mapping[str, Any], path: tuple[str, ...], brackets: str = "[]") -> list[str]:
    plain = {key: value for key, value in values.items() if not (_is_table(value) or _is_array_of_tables(value))}
    opening, closing = brackets[: len(brackets) // 2], brackets[len(brackets) // 2 :]
    named = path and (plain or opening == "[[")
    lines = ["", f"{opening}{'.'.join(map(_key, path))}{closing}"] if named else []
    lines += [_assignment(key, value) for key, value in plain.items()]
    for key, value in values.items():
        if _is_table(value):
            lines += _lines(value, (*path, key))
        elif _is_array_of_tables(value):
            lines += [line for item in value for line in _lines(item, (*path, key), "[[]]")]
    return lines


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _is_table(value: Any) -> bool:
    """Whether a value needs a table of its own: a mapping that holds a mapping, or the values of a curve."""
    return isinstance(value, Mapping) and ("fit" in value or any(isinstance(item, Mapping) for item in value.values()))


def _assignment(key: str, value: Any) -> str:
    if key.endswith("_seconds"):
        key, value = key.removesuffix("_seconds") + "_us", _scaled(value)
    return f"{_key(key)} = {_text(value)}"


def _scaled(value: Any) -> Any:
    return [_scaled(item) for item in value] if isinstance(value, list | tuple) else value / MICRO


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _string(key)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(f"{value:.{_SIGNIFICANT_DIGITS}g}"))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_assignment(key, item) for key, item in value.items()) + " }"
    return str(value) if isinstance(value, int) else _string(value)


def _string(text: str) -> str:
    """A TOML basic string: JSON's, which does not escape the one control character beyond ASCII's first 32."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
