"""Names -> files of the catalog: case, spaces and remarks in parentheses are forgiven, and aliases are known."""

import difflib
import os
import re
from functools import cache
from pathlib import Path

from profiles.files import read_table

DATA = Path(__file__).parent / "data"
_NUM_NEIGHBOURS = 5
_LEAST_LIKENESS = 0.6
"""Of names that are called close, as `difflib` measures it."""


class UnknownName(ValueError):
    """A name the catalog does not hold; the message lists the closest ones."""


def key(name: str) -> str:
    """How a name is looked up: lower case, anything but letters, digits and dots as one hyphen, no (remarks)."""
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\([^()]*\)", "", name.casefold())).strip("-")


@cache
def files(folder: Path) -> dict[str, Path]:
    """Name -> file, for every TOML file under `folder`."""
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.toml")}


@cache
def _stems(folder: Path) -> dict[str, Path]:
    return {key(name): path for name, path in files(folder).items()}


@cache
def aliases(folder: Path) -> dict[str, str]:
    """Key -> name for every name and alias in `folder`; parses every file there."""
    known = {}
    for name, path in files(folder).items():
        for alias in (name, *read_table(path).get("aliases", ())):
            known[key(alias)] = name
    return known


@cache
def _squeezed(folder: Path) -> dict[str, str]:
    """Names and aliases without hyphens -> name, where only one is written so ("rtx4090")."""
    meant: dict[str, set[str]] = {}
    for alias, name in aliases(folder).items():
        meant.setdefault(alias.replace("-", ""), set()).add(name)
    return {alias: min(names) for alias, names in meant.items() if len(names) == 1}


def path_of(kind: str, name: str) -> Path | None:
    """The file of `name`: by its stem without reading anything, else by the aliases in all files of the kind."""
    folder, wanted = DATA / kind, key(name)
    if wanted in (known := _stems(folder)):
        return known[wanted]
    alias = aliases(folder).get(wanted) or _squeezed(folder).get(wanted.replace("-", ""))
    return None if alias is None else files(folder)[alias]


def node_path(name: str) -> Path | None:
    """The file of the node called `name`, or of the usual host of the accelerator called so."""
    path = path_of("nodes", name)
    if path is None and (device := path_of("accelerators", name)) is not None:
        path = path_of("nodes", device.stem)
    return path


def find(kind: str, name: str) -> Path:
    """The file of `name`; raises UnknownName."""
    path = path_of(kind, name)
    if path is None:
        raise UnknownName(unknown(kind, name))
    return path


def is_file_name(name: str | os.PathLike[str]) -> bool:
    """Whether `name` can only be a file's."""
    return not isinstance(name, str) or name.lower().endswith((".toml", ".json"))


def locate(kind: str, name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a name in the catalog, or the file (or folder) that a user named."""
    catalogued = None if is_file_name(name_or_path) else path_of(kind, str(name_or_path))
    return catalogued or given_path(kind, name_or_path)


def given_path(kind: str, name: str | os.PathLike[str], also: str | None = None) -> Path:
    """The file a user named; raises UnknownName for what is neither a name of `kind` nor an existing file."""
    if is_file_name(name) or os.path.exists(name):
        return Path(name)
    raise UnknownName(unknown(kind, str(name), also))


def unknown(kind: str, name: str, also: str | None = None) -> str:
    """What to tell of a name that nothing has: the closest ones."""
    known = {alias: stem for folder in (kind, also) if folder for alias, stem in aliases(DATA / folder).items()}
    close = difflib.get_close_matches(key(name), known, n=_NUM_NEIGHBOURS, cutoff=_LEAST_LIKENESS)
    neighbours = ", ".join(dict.fromkeys(known[alias] for alias in close))
    listed = "profiles list" if also else f"profiles list {kind}"
    all_names = f"`meshwise {listed}` shows all {len(set(known.values()))}"
    hint = f"close names: {neighbours}" if neighbours else all_names
    return f"no {kind.rstrip('s')} is called {name!r}; {hint}"
