"""Sets of named parts, as people write them: names separated by commas."""

from enum import IntFlag
from typing import TypeVar

Parts = TypeVar("Parts", bound=IntFlag)


def named(kind: type[Parts], text: str, field: str, nothing: str = "") -> Parts:
    """The parts of `kind` named in `text`; raises ValueError listing the names, after `nothing` if it has one."""
    found = kind(0)
    for name in text.split(","):
        try:
            found |= kind[name.strip().upper()]
        except KeyError:
            names = ", ".join(([nothing] if nothing else []) + [part.name.lower() for part in kind if part.name])
            raise ValueError(f"{field}: {name.strip()!r} is not one of {names}") from None
    return found


def names_of(parts: IntFlag, nothing: str = "") -> str:
    """The names of `parts`, separated by commas; `nothing` if there are none."""
    return ",".join(part.name.lower() for part in type(parts) if part in parts and part.name) or nothing
