"""Files the commands write: whole or not at all, and never over another file unless told to."""

import os
import tempfile
from pathlib import Path


def check_writable(path: Path, force: bool, endings: tuple[str, ...] = ()) -> None:
    """Raise ValueError when writing `path` would have to fail; called before long work, so that none is lost.

    With `endings`, the name must have one of them.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path}: the name must end in {' or '.join(endings)}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file name")
    if path.exists() and not force:
        raise ValueError(f"{path}: exists already; give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; create it first")


def write_whole(path: Path, data: str | bytes, force: bool) -> None:
    """Write a file next to its final place and rename it, so that nobody ever sees half of it."""
    check_writable(path, force)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
