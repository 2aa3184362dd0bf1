"""Launches micro-benchmarks on the ranks of this machine (or of a test bed), one kind after another.

Each kind is a launch of its own, whose rows a journal keeps at once: an interrupted calibration goes on where it was.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from validate.calibration.effort import Effort
from validate.calibration.journal import Journal
from validate.launch import Report, launch_local

Row = dict[str, Any]
Launcher = Callable[..., list[Row]]
"""What starts ranks: `validate.launch.launch_local`, or the same of a test bed."""
Progress = Callable[[str, float], None]
"""(what is measured now, fraction done)."""


def kernel_samples(values: Row, report: Report) -> Row:
    """The body of a kernel launch; imports torch in the rank only."""
    from validate.calibration.samples import kernel_samples as run

    return run(values, report)


def collective_samples(values: Row, report: Report) -> Row:
    """The body of a collective launch; imports torch in the rank only."""
    from validate.calibration.collective_samples import collective_samples as run

    return run(values, report)


@dataclass(frozen=True, slots=True)
class Samples:
    """What the launches of a calibration found: for each launch the results of every rank."""

    kernels: tuple[list[Row], ...]
    messages: tuple[list[Row], ...]
    """By group size, from 2 on."""

    @property
    def launches(self) -> tuple[list[Row], ...]:
        """All of them."""
        return (*self.kernels, *self.messages)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One launch: what it is called, its body and values, and its share of the whole time."""

    name: str
    body: Callable[[Row, Report], Row]
    values: Row
    num_ranks: int
    weight: float


@dataclass(frozen=True, slots=True)
class Sampler:
    """Measures what `effort` asks for on `num_ranks` ranks."""

    num_ranks: int
    effort: Effort
    device: str = "auto"
    launcher: Launcher = launch_local
    timeout_seconds: float = 600.0
    journal: Journal | None = None
    """Keeps the results of every launch, and gives back those of an interrupted run."""

    def kernels(self, tell: Progress) -> tuple[list[Row], ...]:
        """Kernels on all ranks at once; `tell` gets fractions of this part."""
        return self._run(list(self._kernel_kinds()), tell)

    def messages(self, tell: Progress) -> tuple[list[Row], ...]:
        """Collectives over every group size from 2 on; `tell` gets fractions of this part."""
        values = self._values(self.effort.seconds_per_message) | {"num_bytes": self.effort.num_bytes}
        kinds = [
            _Kind(f"messages of {size} ranks", collective_samples, values, size, float(size))
            for size in range(2, self.num_ranks + 1)
        ]
        return self._run(kinds, tell)

    def _kernel_kinds(self) -> Iterator[_Kind]:
        effort = self.effort
        shapes: dict[str, Any] = {
            "gemm": effort.gemm, "attention": effort.attention, "elements": effort.elements,
            "parameters": effort.parameters, "embeddings": effort.embeddings,
        }  # fmt: skip
        base = self._values(effort.seconds_per_kernel) | dict.fromkeys(shapes, ()) | {"copies": False}
        for dtype in effort.dtypes:
            values = base | {"gemm": effort.gemm, "dtypes": (dtype,)}
            yield _Kind(f"matrix products in {dtype}", kernel_samples, values, self.num_ranks, 3.0 * len(effort.gemm))
        others = {"attention": 2.0, "elements": 9.0, "parameters": 1.0, "embeddings": 1.0}
        for name, repeats in others.items():
            values = base | {name: shapes[name], "dtypes": effort.dtypes[:1], "copies": name == "parameters"}
            yield _Kind(name, kernel_samples, values, self.num_ranks, repeats * len(shapes[name]))

    def _values(self, seconds: float) -> Row:
        return {"device": self.device, "seconds_per_sample": seconds,
                "patience_seconds": self.effort.patience_seconds}  # fmt: skip

    def _run(self, kinds: list[_Kind], tell: Progress) -> tuple[list[Row], ...]:
        total, done, found = sum(kind.weight for kind in kinds), 0.0, []
        for kind in kinds:

            def report(phase: str, kind: _Kind = kind, done: float = done) -> None:
                part, whole = _progress(phase)
                tell(f"{kind.name}: {phase}", (done + kind.weight * part / whole) / total)

            tell(kind.name, done / total)
            found.append(self._results(kind, report))
            done += kind.weight
        return tuple(found)

    def _results(self, kind: _Kind, report: Report) -> list[Row]:
        kept = self.journal.kept(kind.name) if self.journal else None
        if kept is not None:
            return kept
        results = self.launcher(
            kind.body, kind.values, kind.num_ranks, timeout_seconds=self.timeout_seconds, oversubscribe=True,
            on_progress=report,
        )  # fmt: skip
        if self.journal:
            self.journal.keep(kind.name, results)
        return results


def _progress(phase: str) -> tuple[int, int]:
    """(done, of how many) of a phase that begins with "3 of 17"; nothing done otherwise."""
    words = phase.split()
    if len(words) > 2 and words[1] == "of" and words[0].isdecimal() and words[2].rstrip(":").isdecimal():
        return int(words[0]) - 1, int(words[2].rstrip(":"))
    return 0, 1


__all__ = ["Launcher", "Progress", "Sampler", "Samples", "collective_samples", "kernel_samples"]
