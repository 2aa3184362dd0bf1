"""What an interrupted calibration had measured, in a file beside its output: the next one goes on from there."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.units import HOUR

_LONGEST_AGE_SECONDS = 6.0 * HOUR
"""Older measurements are not taken up: the machine may have changed its ways since."""


@dataclass(frozen=True, slots=True)
class Journal:
    """One JSON object a line: what was measured, by what, when, and the results of every rank."""

    path: Path
    setting: Mapping[str, Any]
    """Machine, torch, ranks and effort; lines of another setting are not taken up."""

    @classmethod
    def beside(cls, output: Path, setting: Mapping[str, Any]) -> "Journal":
        """The journal of a calibration that writes `output`."""
        return cls(output.with_name(f".{output.name}.measured"), json.loads(json.dumps(setting)))

    def keep(self, name: str, results: list[dict[str, Any]]) -> None:
        """Add what was measured."""
        line = {"name": name, "setting": self.setting, "time": time.time(), "results": results}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def kept(self, name: str) -> list[dict[str, Any]] | None:
        """What was measured under `name` in this setting, not long ago; None if nothing was."""
        found = None
        for line in self._lines():
            if line.get("name") == name and line.get("setting") == self.setting:
                is_recent = time.time() - float(line.get("time", 0.0)) < _LONGEST_AGE_SECONDS
                found = line.get("results") if is_recent else found
        return found

    def names(self) -> list[str]:
        """What a calibration in this setting would not measure again."""
        known = dict.fromkeys(str(line.get("name")) for line in self._lines())
        return [name for name in known if self.kept(name) is not None]

    def forget(self) -> None:
        """Remove the file: its calibration is done."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[dict[str, Any]]:
        """All whole lines; the last one may have been cut off."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                found += [line] if isinstance(line, dict) else []
        return found
