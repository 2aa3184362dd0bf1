"""Names of the namespaces of a bed, and the removal of those whose owner is gone.

Everything a bed makes lies in namespaces whose names begin with `PREFIX` and the owner's process id, so that
removing these removes all of it.
"""

import contextlib
import os
from pathlib import Path

from validate.netbed.shell import NetBedError, ip

PREFIX = "meshwise-bed"
_FOLDER = Path("/run/netns")


def host_name(owner: int, bed: int, host: int | str) -> str:
    """The namespace of a host (or of the "switch") of the bed number `bed` of process `owner`."""
    return f"{PREFIX}-{owner}-{bed}-{host}"


def namespace_file(name: str) -> Path:
    """The file that stands for a namespace."""
    return _FOLDER / name


def present() -> list[str]:
    """Namespaces of any bed that exist now."""
    return sorted(path.name for path in _FOLDER.glob(f"{PREFIX}-*")) if _FOLDER.is_dir() else []


def remove(names: list[str]) -> list[str]:
    """Remove namespaces with all that lies in them; returns those that could not be."""
    left = []
    for name in names:
        try:
            ip("netns", "delete", name)
        except NetBedError:
            left.append(name)
    return left


def sweep() -> list[str]:
    """Remove what beds of processes that no longer run left behind; returns the names removed."""
    orphans = [name for name in present() if not _runs(_owner(name))]
    kept = remove(orphans)
    return [name for name in orphans if name not in kept]


def _owner(name: str) -> int:
    with contextlib.suppress(ValueError, IndexError):
        return int(name.removeprefix(f"{PREFIX}-").split("-")[0])
    return 0


def _runs(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
