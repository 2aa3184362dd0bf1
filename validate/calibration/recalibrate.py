"""Measured steps -> a profile that predicts them better, and what those steps can and cannot tell.

The factors of `scales` of largest probability: each is believed to be near 1, as wide as its spread, and each
measured part of a step to be met up to its noise (a robust, regularised least squares). How far a factor's spread
shrinks is what the runs say of it: one step time says something of all prices together, and nothing of any alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from planner.cost.estimate import step_breakdown
from planner.plan import Plan, PlanGrid
from profiles import catalog
from profiles.cluster import Cluster, ClusterSpec
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibration.fit import Origin
from validate.calibration.scales import Scale, scaled, scales_of

Floats = NDArray[np.float64]

LEAST_NOISE_FRACTION = 0.02
"""No step is known better."""
STEP = "step"
_PARTS: Mapping[str, tuple[str, ...]] = {
    "forward": ("forward",), "backward": ("backward", "recompute"), "optimizer": ("optimizer",),
    "tp": ("tp",), "cp": ("cp",), "ep": ("ep",), "dp": ("dp",),
}  # fmt: skip
"""Parts that spans and the estimate tell apart alike; recomputation runs inside the backward pass."""
_ROBUST_RUNS = 3
"""Among fewer runs none can be told to be the odd one out."""
_DIFFERENCE = 1e-3
"""In units of the parameters, over which slopes are taken."""
_FURTHEST = 4.0
"""Spreads that a factor may be from 1."""
_TOLERANCE, _MOST_STEPS = 1e-3, 5
"""Steps are nearly linear in the factors, so that a few suffice."""
_DETERMINED_FRACTION = 0.5
"""A factor counts as found once its spread is this share of what it was."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured run: its step, and its parts where spans were taken."""

    name: str
    job: TrainingJob
    plan: Plan
    stack: SoftwareStack
    seconds: Mapping[str, float]
    """"step", and any of forward, backward, optimizer, tp, cp, ep and dp; the backward pass with recomputation."""
    noise_fraction: float = LEAST_NOISE_FRACTION


def observed_parts(breakdown: Mapping[str, float]) -> dict[str, float]:
    """The parts of a measured breakdown that an `Observation` can hold, and its step."""
    parts = {name: sum(breakdown[one] for one in ones) for name, ones in _PARTS.items()}
    return {name: seconds for name, seconds in parts.items() if seconds > 0.0} | {STEP: sum(breakdown.values())}


@dataclass(frozen=True, slots=True)
class Factor:
    """What the runs say of one cause."""

    scale: Scale
    value: float
    """Its time, over what it was."""
    log_spread: float
    """One standard deviation after the runs; that of `scale` was before."""

    @property
    def is_found(self) -> bool:
        """Whether the runs say more of it than was believed before."""
        return self.log_spread <= _DETERMINED_FRACTION * self.scale.log_spread


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A profile changed by runs."""

    spec: ClusterSpec
    factors: tuple[Factor, ...]
    before: Mapping[str, float]
    """Run -> predicted over measured step, minus 1."""
    after: Mapping[str, float]
    held_out: Mapping[str, float]
    """The same of each run by the factors of the others; empty below three runs."""
    num_figures: int
    """Steps and parts that were measured."""


def recalibrate(spec: ClusterSpec, runs: Sequence[Observation], origin: Origin) -> Recalibration:
    """The profile `spec` under the factors that `runs` make most probable.

    Raises ValueError where a plan has no price on the cluster.
    """
    problem = _Problem(spec, tuple(runs), origin)
    found = problem.solve()
    return Recalibration(
        spec=problem.spec_at(found.position),
        factors=tuple(
            Factor(scale, float(np.exp(value)), min(float(spread), scale.log_spread))
            for scale, value, spread in zip(problem.scales, found.position, found.spreads, strict=True)
        ),
        before=problem.step_errors(problem.predicted(np.zeros(len(problem.scales)))),
        after=problem.step_errors(problem.predicted(found.position)),
        held_out=found.left_out_errors(problem) if len(runs) >= _ROBUST_RUNS else {},
        num_figures=len(problem.measured),
    )


class _Problem:
    """Runs, the cluster they ran on, and the factors to find; positions are logs of the factors."""

    def __init__(self, spec: ClusterSpec, runs: tuple[Observation, ...], origin: Origin) -> None:
        self.spec, self.runs, self.origin = spec, runs, origin
        self.num_devices = max(run.plan.num_ranks for run in runs)
        self.scales = scales_of(spec, self.num_devices)
        self.spreads = np.array([scale.log_spread for scale in self.scales])
        self.dtypes = tuple(dict.fromkeys(run.job.precision for run in runs))
        self.measured = np.concatenate([list(run.seconds.values()) for run in runs])
        self.owner = np.concatenate([[index] * len(run.seconds) for index, run in enumerate(runs)])
        self.is_step = np.array([name == STEP for run in runs for name in run.seconds])
        noise = [max(run.noise_fraction, LEAST_NOISE_FRACTION) * run.seconds[STEP] for run in runs]
        self.unit = np.array(noise)[self.owner]
        """What each measured part may be off by: the noise of its step."""
        alike: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
        for index, run in enumerate(runs):
            alike[id(run.job), id(run.stack), run.plan.num_ranks].append(index)
        self.alike = tuple(alike.values())
        """Runs that are priced together: plans of one job."""

    def spec_at(self, position: Floats) -> ClusterSpec:
        """The profile at `position`."""
        factors = dict(zip(self.scales, np.exp(position).tolist(), strict=True))
        return scaled(self.spec, factors, self.num_devices, self.dtypes, self.origin)

    def predicted(self, position: Floats) -> Floats:
        """Seconds of every part of every run."""
        spec = self.spec_at(position)
        clusters = {size: catalog.expand(spec, size) for size in {run.plan.num_ranks for run in self.runs}}
        found: dict[int, list[float]] = {}
        for indices in self.alike:
            runs = [self.runs[index] for index in indices]
            found |= zip(indices, _predicted(clusters[runs[0].plan.num_ranks], runs), strict=True)
        return np.concatenate([found[index] for index in range(len(self.runs))])

    def step_errors(self, predicted: Floats) -> dict[str, float]:
        """Run -> predicted over measured step, minus 1."""
        errors = (predicted / self.measured - 1.0)[self.is_step]
        return {run.name: float(error) for run, error in zip(self.runs, errors, strict=True)}

    def solve(self) -> "_Solution":
        """The most probable position, and the slopes of all parts there."""
        start = np.zeros(len(self.spreads))

        def residuals(units: Floats) -> Floats:
            return np.concatenate([(self.predicted(units * self.spreads) - self.measured) / self.unit, units])

        found: Any = least_squares(
            residuals, start, loss="soft_l1" if len(self.runs) >= _ROBUST_RUNS else "linear",
            diff_step=[_DIFFERENCE], bounds=(-_FURTHEST, _FURTHEST),
            ftol=_TOLERANCE, xtol=_TOLERANCE, max_nfev=_MOST_STEPS,
        )  # fmt: skip
        position = found.x * self.spreads
        at = self.predicted(position)
        moved = [self.predicted(position + _DIFFERENCE * one) for one in np.eye(len(position))]
        covariance = np.linalg.inv(found.jac.T @ found.jac)
        slopes = np.stack([(there - at) / _DIFFERENCE for there in moved], axis=1)
        return _Solution(position, np.sqrt(np.diag(covariance)) * self.spreads, at, slopes)


@dataclass(frozen=True, slots=True)
class _Solution:
    """Where the runs lead, and the tangent there."""

    position: Floats
    spreads: Floats
    """Standard deviations of the position, by the curvature there."""
    predicted: Floats
    slopes: Floats
    """Of every part, by factor."""

    def left_out_errors(self, problem: _Problem) -> dict[str, float]:
        """Step error of each run at the position that the others alone lead to, along the tangent."""
        found = self.predicted.copy()
        for index in range(len(problem.runs)):
            seen = problem.owner != index
            rows = self.slopes[seen] / problem.unit[seen, None]
            wanted = (problem.measured - self.predicted)[seen] / problem.unit[seen]
            prior = np.diag(1.0 / problem.spreads)
            step, *_ = np.linalg.lstsq(
                np.vstack([rows, prior]), np.concatenate([wanted, -self.position / problem.spreads]), rcond=None
            )
            found[~seen] = (self.predicted + self.slopes @ step)[~seen]
        return problem.step_errors(found)


def _predicted(cluster: Cluster, runs: Sequence[Observation]) -> Iterator[list[float]]:
    """Seconds of every measured part of each of `runs`, which differ in their plan alone."""
    plans = PlanGrid.of([run.plan for run in runs])
    breakdowns = step_breakdown(plans, runs[0].job, cluster, runs[0].stack)
    for index, run in enumerate(runs):
        breakdown = breakdowns.row(index)
        parts = {name: float(seconds) for name, seconds in breakdown.parts().items()}
        joined = {name: sum(parts[one] for one in ones) for name, ones in _PARTS.items()}
        whole = joined | {STEP: float(breakdown.step_seconds)}
        yield [whole[name] for name in run.seconds]


__all__ = ["Factor", "Observation", "Recalibration", "observed_parts", "recalibrate"]
