"""Finished searches on disk, so that the next question about the same clusters is answered at once.

One small JSON file for each search, written in one move, under the user's cache folder. The name of a file is a digest
of all that its search depended on: job, cluster, software, and every file of the program and its catalog. Whatever
cannot be read back is searched again.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

import planner
import profiles
from meshwise import __version__, jobfile
from meshwise.jobfile import SplitTable
from planner.breakdown import Breakdown
from planner.choose.capacity.pace import NoPace, Pace
from planner.choose.requirements import Scenario
from planner.plan import as_written
from profiles.files import write_whole


@dataclass(frozen=True, slots=True)
class PaceCache:
    """Paces by what they depend on, in a folder that need not exist yet."""

    folder: Path

    def get(self, name: str, num_devices: int) -> Pace | NoPace | None:
        """What a search of that `digest` found; None where nothing was, or where the file cannot be read as a pace."""
        try:
            return _from_values(json.loads(self._path(name).read_text(encoding="utf-8")), num_devices)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, name: str, found: Pace | NoPace) -> None:
        """Keep `found`; a folder that cannot be written to keeps nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(name), json.dumps(_values(found)), overwrite=True)
        except OSError:
            return

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def usual_cache() -> PaceCache:
    """The one under $MESHWISE_CACHE_DIR, else in the user's cache folder (on Linux ~/.cache/meshwise)."""
    return PaceCache(Path(os.environ.get("MESHWISE_CACHE_DIR") or platformdirs.user_cache_dir("meshwise")) / "searches")


def digest(on: Scenario) -> str:
    """A digest of all that the search of `on` depends on: clusters that differ in their names alone share it."""
    found = hashlib.sha256(program_digest().encode())
    for record in (on.job, on.cluster, on.stack):
        about = {"name", "source", "unverified", "notes"} if record is on.cluster else None
        found.update(record.model_dump_json(exclude=about).encode())
    return found.hexdigest()


@cache
def program_digest() -> str:
    """A digest of the version and of every file that a price can come from, code and catalog."""
    found = hashlib.sha256(__version__.encode())
    for package in (planner, profiles):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".toml", ".csv"):
                found.update(str(path.relative_to(root)).encode())
                found.update(path.read_bytes())
    return found.hexdigest()


def _values(found: Pace | NoPace) -> dict[str, Any]:
    if isinstance(found, NoPace):
        return {"refused": asdict(found)}
    plain = {name: value for name, value in asdict(found).items() if name not in ("plan", "breakdown")}
    return {"plan": as_written(found.plan), "breakdown": asdict(found.breakdown), "pace": plain}


def _from_values(values: dict[str, Any], num_devices: int) -> Pace | NoPace:
    if "refused" in values:
        return NoPace(**values["refused"])
    plan = jobfile.plan(SplitTable.model_validate(values["plan"]), num_devices)
    return Pace(plan=plan, breakdown=Breakdown(**values["breakdown"]), **values["pace"])
