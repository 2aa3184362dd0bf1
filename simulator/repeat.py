"""Many plays of one random thing: the same results for the same seed, however many workers share them out.

Every run has a seed of its own, so that runs can be taken up again: a journal keeps those that are done.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

Played = TypeVar("Played")


@dataclass(frozen=True, slots=True)
class Journal(Generic[Played]):
    """A file of finished runs, a JSON line each, under a line that says which runs they are."""

    path: Path
    what: str
    """All that the results depend on but their seeds, as text."""
    write: Callable[[Played], Any]
    read: Callable[[Any], Played]

    def done(self) -> dict[int, Played]:
        """Results by run; starts the file where there is none. A last line that was cut off is dropped.

        Raises ValueError for a file that belongs to other runs, or is no journal.
        """
        head = {"runs_of": hashlib.sha256(self.what.encode()).hexdigest()}
        if not self.path.exists():
            self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return {}
        lines = [line for line in map(_parsed, self.path.read_text(encoding="utf-8").splitlines()) if line is not None]
        if not lines or lines[0] != head:
            raise ValueError(f"resume: {self.path} holds other runs; give a new file, or the options it was made with")
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return {line["run"]: self.read(line["result"]) for line in lines[1:]}

    def add(self, run: int, result: Played) -> None:
        """Append one result."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": run, "result": self.write(result)}) + "\n")


def repeat(
    play: Callable[[np.random.Generator], Played], num_runs: int, seed: int, executor: Executor | None = None, *,
    journal: Journal[Played] | None = None, on_progress: Callable[[int, int], None] | None = None,
) -> list[Played]:  # fmt: skip
    """Results of `num_runs` plays, each with its own generator spawned from `seed`, in the order of the seeds.

    `play` must be picklable where the executor has processes of its own; without an executor they run here. Runs that
    `journal` holds are not played again; `on_progress(done, total)` is called after each.
    """
    done = journal.done() if journal else {}
    seeds = np.random.SeedSequence(seed).spawn(num_runs)
    missing = [run for run in range(num_runs) if run not in done]
    for run, result in zip(missing, _results(play, [seeds[run] for run in missing], executor), strict=True):
        done[run] = result
        if journal:
            journal.add(run, result)
        if on_progress:
            on_progress(len(done), num_runs)
    return [done[run] for run in range(num_runs)]


def _results(
    play: Callable[[np.random.Generator], Played], seeds: list[np.random.SeedSequence], executor: Executor | None
) -> Iterator[Played]:
    run = partial(_play_one, play)
    if executor is None:
        return map(run, seeds)
    return executor.map(run, seeds, chunksize=max(1, len(seeds) // 256))


def _play_one(play: Callable[[np.random.Generator], Played], seed: np.random.SeedSequence) -> Played:
    return play(np.random.default_rng(seed))


def _parsed(line: str) -> Any:
    """The object of a line, None where it was cut off."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
