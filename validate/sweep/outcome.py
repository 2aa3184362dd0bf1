"""What a sweep found: every plan estimated, simulated and measured, and how well the order was predicted."""

import itertools
from dataclasses import dataclass

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate
from planner.plan import Plan
from validate.calibration.quiet import Probe, doubts
from validate.measured import NOISE_FRACTION, Measurement, Peak
from validate.score.agreement import rank_correlation, regret


@dataclass(frozen=True, slots=True)
class Outcome:
    """One plan three times."""

    plan: Plan
    estimated: Estimate
    simulated: Breakdown
    measured: Measurement
    peak: Peak
    ranks_per_core: float = 1.0
    """Above 1 ranks took turns on the cores, in the prediction too."""

    @property
    def error_fraction(self) -> float:
        """Estimated over measured step, minus 1."""
        return float(self.estimated.step_seconds) / self.measured.step_seconds - 1.0

    @property
    def simulated_error_fraction(self) -> float:
        """Simulated over measured step, minus 1."""
        return float(self.simulated.step_seconds) / self.measured.step_seconds - 1.0

    @property
    def memory_error_fraction(self) -> float:
        """Estimated over measured peak of what is allocated, minus 1."""
        return float(self.estimated.memory.allocated_bytes) / self.peak.allocated_bytes - 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A plan that did not run, and the reason."""

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """All plans of a sweep that have been measured, in the order they were asked for, and one rank beside them."""

    alone: Outcome
    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...]
    num_pending: int
    """Plans that an interruption kept from being measured."""
    probes: tuple[Probe, ...]
    """The machine before, between and after the launches."""

    @property
    def noise_fraction(self) -> float:
        """Measured differences below it are ties: the median of the plans' noise, and at least NOISE_FRACTION."""
        bands = sorted(outcome.measured.noise_fraction for outcome in self.outcomes)
        return max(NOISE_FRACTION, bands[len(bands) // 2]) if bands else NOISE_FRACTION

    @property
    def estimated_seconds(self) -> list[float]:
        """Estimated steps of the outcomes."""
        return [float(outcome.estimated.step_seconds) for outcome in self.outcomes]

    @property
    def measured_seconds(self) -> list[float]:
        """Measured steps of the outcomes."""
        return [outcome.measured.step_seconds for outcome in self.outcomes]

    @property
    def regret_fraction(self) -> float | None:
        """By how much the plan estimated fastest is slower than the fastest measured; None without two plans."""
        return regret(self.estimated_seconds, self.measured_seconds) if len(self.outcomes) > 1 else None

    @property
    def kendall_tau(self) -> float | None:
        """Rank correlation of estimated and measured steps; None where one side is tied throughout."""
        return rank_correlation(self.estimated_seconds, self.measured_seconds)

    @property
    def pairs(self) -> tuple[int, int]:
        """(pairs of plans ordered as measured, pairs that differ by more than the noise)."""
        found = list(zip(self.estimated_seconds, self.measured_seconds, strict=True))
        apart = [
            (one[0] < other[0]) == (one[1] < other[1])
            for one, other in itertools.combinations(found, 2)
            if abs(one[1] - other[1]) > self.noise_fraction * min(one[1], other[1])
        ]
        return sum(apart), len(apart)

    def speedups(self, outcome: Outcome) -> tuple[float, float]:
        """(estimated, measured) steps of one rank over those of a plan."""
        estimated = float(self.alone.estimated.step_seconds) / float(outcome.estimated.step_seconds)
        return estimated, self.alone.measured.step_seconds / outcome.measured.step_seconds

    @property
    def doubts(self) -> list[str]:
        """What speaks against the timings, in words."""
        measured = [outcome.measured for outcome in (self.alone, *self.outcomes)]
        contended = sum(one.num_contended for one in measured)
        words = [f"{contended} launches count although other processes disturbed them"] if contended else []
        taken = max(launch.preemptions_per_step for one in measured for launch in one.launches)
        if contended:
            words.append(f"up to {taken:.0f} times a step the kernel took a core from a rank")
        return doubts(self.probes) + words
