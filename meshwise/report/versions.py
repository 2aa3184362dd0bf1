"""What a report was made with, and when."""

import os
import platform
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from meshwise import __version__

LIBRARIES = ("numpy", "scipy", "simpy", "networkx", "matplotlib")
_DIGITS = 16


def versions() -> tuple[tuple[str, str], ...]:
    """(what, which) of everything that figures can depend on."""
    return (
        ("meshwise", __version__),
        ("data of meshwise", data_digest()),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in LIBRARIES),
    )


@cache
def data_digest() -> str:
    """The first digits of the SHA-256 of every file of the catalog: names and contents."""
    folder = Path(str(files("profiles").joinpath("data")))
    found = sha256()
    for path in sorted(one for one in folder.rglob("*") if one.suffix in (".toml", ".csv")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()[:_DIGITS]


def today() -> str:
    """Day and minute in UTC, or what SOURCE_DATE_EPOCH says [reproducible-builds.org/specs/source-date-epoch]."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(stated), UTC) if stated.isdecimal() else datetime.now(UTC)
    return now.strftime("%Y-%m-%d %H:%M UTC")
