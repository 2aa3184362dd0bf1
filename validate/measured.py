"""What launches of one plan found: steps, parts, losses and memory, and which of them other processes disturbed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.breakdown import Breakdown

MOST_FOREIGN_CORES = 0.12
"""Cores that other processes may keep busy beside a launch that counts; below it the kernel's ticks are noise."""
MOST_OVER_BEST = 1.25
"""A launch slower than the best one by more than this met something that the counters did not see."""
MOST_REPEATS = 3
"""Launches of one kind that may be run again."""
NOISE_FRACTION = 0.05
"""Differences below this are ties on any machine that does other things too."""


Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Launch:
    """One fresh start of all ranks."""

    step_seconds: tuple[float, ...]
    """Of every timed step: the longest over ranks."""
    foreign_cores: float
    """Cores that other processes kept busy meanwhile."""
    losses: tuple[float, ...]
    """Of every step, warm-up included."""
    breakdown: Breakdown
    """Of the busiest rank in the median step."""
    preemptions_per_step: float = 0.0
    """Times the kernel took a core away from a rank, over all ranks."""

    @classmethod
    def of_values(cls, values: Row) -> "Launch":
        """A launch out of the plain values that a journal holds."""
        return cls(
            step_seconds=tuple(values["step_seconds"]),
            foreign_cores=values["foreign_cores"],
            losses=tuple(values["losses"]),
            breakdown=Breakdown(**values["breakdown"]),
            preemptions_per_step=values["preemptions_per_step"],
        )

    @property
    def median_seconds(self) -> float:
        """Median over the timed steps."""
        return statistics.median(self.step_seconds)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the launches of one plan say together."""

    launches: tuple[Launch, ...]
    num_discarded: int
    """Launches run again because other processes disturbed them."""
    num_contended: int
    """Launches that count although other processes ran beside them."""

    @property
    def step_seconds(self) -> float:
        """Median of the launches' medians."""
        return statistics.median(launch.median_seconds for launch in self.launches)

    @property
    def range_seconds(self) -> tuple[float, float]:
        """The fastest and the slowest launch's median."""
        medians = [launch.median_seconds for launch in self.launches]
        return min(medians), max(medians)

    @property
    def noise_fraction(self) -> float:
        """Differences that are ties: half the range of the launches, and at least NOISE_FRACTION."""
        low, high = self.range_seconds
        return max(NOISE_FRACTION, 0.5 * (high - low) / self.step_seconds)

    @property
    def breakdown(self) -> Breakdown:
        """Of the launch whose median is nearest to the median of all."""
        return min(self.launches, key=lambda launch: abs(launch.median_seconds - self.step_seconds)).breakdown


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak memory of the fullest rank."""

    allocated_bytes: float
    """The most that tensors held at once; on CUDA what the allocator handed out."""
    resident_bytes: float | None = None
    """Growth of the resident set of a process on CPUs: tensors, torch's buffers and gloo's."""

    @classmethod
    def of(cls, results: Sequence[Row]) -> "Peak":
        """From what the ranks of a launch that measured memory returned."""
        most = {name: max(result["memory"][name] for result in results) for name in ("allocated_bytes", "tensor_bytes")}
        if results[0]["device"] == "cuda":
            return cls(most["allocated_bytes"])
        return cls(most["tensor_bytes"], most["allocated_bytes"])


def num_disturbed(launches: Sequence[Launch]) -> int:
    """Launches of one plan beside which other processes ran, or that are far slower than the best of them."""
    best = min(launch.median_seconds for launch in launches)
    return sum(_is_disturbed(launch, best) for launch in launches)


def _is_disturbed(launch: Launch, best_seconds: float) -> bool:
    return launch.foreign_cores > MOST_FOREIGN_CORES or launch.median_seconds > MOST_OVER_BEST * best_seconds


def measurement_of(launches: Sequence[Launch], num_launches: int) -> Measurement:
    """The `num_launches` least disturbed of `launches`."""
    best = min(launch.median_seconds for launch in launches)
    ordered = sorted(launches, key=lambda launch: (_is_disturbed(launch, best), launch.foreign_cores))
    kept = tuple(ordered[:num_launches])
    return Measurement(kept, len(launches) - len(kept), sum(_is_disturbed(launch, best) for launch in kept))


def launch_of(results: Sequence[Row], num_warmup: int) -> Launch:
    """One launch from the results of its ranks."""
    steps = list(zip(*(result["steps"] for result in results), strict=True))  # by step, then rank
    seconds = [max(step["usage"]["wall_seconds"] for step in ranks) for ranks in steps]
    own = sum(step["usage"]["own_core_seconds"] for ranks in steps for step in ranks)
    busy = sum(ranks[0]["usage"]["busy_core_seconds"] for ranks in steps)
    middle = sorted(range(len(seconds)), key=seconds.__getitem__)[len(seconds) // 2]
    parts = [exclusive_seconds(step["spans"]) for step in steps[middle]]
    has_stages = any(result["coordinates"]["pp"] > 0 for result in results)
    losses = next(result["losses"] for result in results if result["losses"] is not None)
    return Launch(
        step_seconds=tuple(seconds),
        foreign_cores=(busy - own) / sum(seconds),
        preemptions_per_step=sum(step["usage"]["num_preemptions"] for ranks in steps for step in ranks) / len(steps),
        losses=tuple(losses),
        breakdown=_breakdown(max(parts, key=lambda part: sum(part.values())), seconds[middle], has_stages),
    )


def exclusive_seconds(spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Seconds of each name in [name, start, end] spans; what lies inside another span is taken from that one."""
    totals: dict[str, float] = {}
    open_spans: list[tuple[str, float]] = []
    for name, start, end in sorted(spans, key=lambda span: (span[1], -span[2])):
        while open_spans and open_spans[-1][1] <= start:
            open_spans.pop()
        totals[name] = totals.get(name, 0.0) + end - start
        if open_spans:
            totals[open_spans[-1][0]] -= end - start
        open_spans.append((name, end))
    return totals


def _breakdown(parts: dict[str, float], step_seconds: float, has_stages: bool) -> Breakdown:
    """The spans of a rank as parts of its step; the rest is waiting between stages, or the host's own time."""
    named = {f"{name}_seconds": seconds for name, seconds in parts.items()}
    rest = max(step_seconds - sum(parts.values()), 0.0)
    return Breakdown(**named, **{"idle_seconds" if has_stages else "host_seconds": rest})


__all__ = [
    "MOST_FOREIGN_CORES", "MOST_REPEATS", "NOISE_FRACTION", "Launch", "Measurement", "Peak", "Row", "exclusive_seconds",
    "launch_of", "measurement_of", "num_disturbed",
]  # fmt: skip
