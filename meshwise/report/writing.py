"""Reports as files: what formats there are, and that a file is written whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeVar

from meshwise.report.document import Report
from profiles.files import BadFile, check_writable, write_whole

Files = dict[str, bytes]
"""Name within a folder -> content; the one file of a format that is a file has the name ``."""
Write = TypeVar("Write", bound=Callable[[Report], Files])


@dataclass(frozen=True, slots=True)
class Writer:
    """A format."""

    ending: str
    """Of its file; empty for a folder of files."""
    write: Callable[[Report], Files]
    owns: str = ""
    """Of a folder: a regular expression of the names of all files that a report puts there."""


WRITERS: dict[str, Writer] = {}
"""Every format by its ending; `load` fills it."""


def writer(ending: str, *, owns: str = "") -> Callable[[Write], Write]:
    """Register the decorated function as what writes files that end so."""

    def register(write: Write) -> Write:
        assert ending not in WRITERS, f"two writers of {ending or 'folders'}"
        WRITERS[ending] = Writer(ending, write, owns)
        return write

    return register


def load() -> dict[str, Writer]:
    """Every format, by its ending."""
    from meshwise.report import writers

    for module in iter_modules(writers.__path__):
        import_module(f"{writers.__name__}.{module.name}")
    return dict(sorted(WRITERS.items()))


def check(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise BadFile when a report could not be written: better before long work than after."""
    for path in paths:
        if _is_folder(path):
            _check_folder(path, overwrite)
        else:
            endings = tuple(ending for ending in load() if ending)
            if path.suffix.lower() not in endings:
                raise BadFile(f"{path}: a report ends in {' or '.join(endings)}, or is a folder for pictures (DIR/)")
            check_writable(path, overwrite)
    if len({path.resolve() for path in paths}) < len(paths):
        raise BadFile(f"{paths[-1]}: two reports cannot have one name; give each its own")


def write(paths: Sequence[Path], report: Report, overwrite: bool) -> None:
    """Write `report` to every path, each whole or not at all, and none before all are made.

    Raises BadFile as `check`.
    """
    formats = load()
    made = [(path, formats["" if _is_folder(path) else path.suffix.lower()]) for path in paths]
    contents = [(path, form, form.write(report)) for path, form in made]
    for path, form, files in contents:
        if form.ending:
            write_whole(path, files[""], overwrite)
        else:
            _write_folder(path, files, form.owns, overwrite)


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _check_folder(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise BadFile(f"{path}: is a file; give a folder, or a name that ends in .html or .pdf")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise BadFile(f"{path}: holds files already; give another folder, or ask to replace a report there (--force)")
    if not path.parent.is_dir():
        raise BadFile(f"{path}: there is no folder {path.parent}; create it first")


def _write_folder(path: Path, files: Files, owns: str, overwrite: bool) -> None:
    """A new folder in one move; of one that is there, only files that a report owns are replaced."""
    _check_folder(path, overwrite)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        draft.chmod(0o755)
        if not path.exists():
            os.replace(draft, path)
            return
        for old in path.iterdir():
            if re.fullmatch(owns, old.name):
                old.unlink()
        for name in files:
            os.replace(draft / name, path / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
