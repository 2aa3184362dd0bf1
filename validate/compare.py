"""Estimated, simulated and measured side by side: one plan, part by part, with its speed-up over one rank.

Launches of the plan and of one rank alternate, so that a machine whose speed drifts hits both alike; what counts
is the median of the medians of fresh launches. A launch beside which other processes ran is run again.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate, estimate
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibration.journal import Journal
from validate.emulation import predicted, ranks_per_core
from validate.measured import Measurement, Peak
from validate.room import check_room
from validate.runnable import check_runnable
from validate.runner import Progress, Runner, setting

Ranking = Literal["confirmed", "tie", "wrong"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One plan three times, and one rank beside it."""

    plan: Plan
    estimated: Estimate
    simulated: Breakdown
    measured: Measurement
    measured_peak: Peak
    single_estimated: Estimate
    single_measured: Measurement
    ranks_per_core: float = 1.0
    """Above 1 the run is an emulation: ranks take turns on the cores, in the prediction too."""

    @property
    def error_fraction(self) -> float:
        """Estimated over measured step, minus 1."""
        return self.estimated.step_seconds / self.measured.step_seconds - 1.0

    @property
    def estimated_speedup(self) -> float:
        """Estimated step of one rank over that of the plan."""
        return float(self.single_estimated.step_seconds / self.estimated.step_seconds)

    @property
    def measured_speedup(self) -> float:
        """Measured step of one rank over that of the plan."""
        return self.single_measured.step_seconds / self.measured.step_seconds

    @property
    def verdict(self) -> str:
        """What the comparison says, in one sentence."""
        words = (
            f"the estimate is {abs(self.error_fraction):.1%} {'over' if self.error_fraction > 0 else 'under'} "
            f"the measured step; differences below {self.noise_fraction:.0%} are noise here"
        )
        if self.plan.num_ranks > 1:
            words += f"; ranking against one rank: {self.ranking}"
        if self.ranks_per_core > 1.0:
            words += f"; emulated: {self.ranks_per_core:g} ranks take turns on each core, here and in the prediction"
        contended = self.measured.num_contended + self.single_measured.num_contended
        if contended:
            words += f"; {contended} launches count although other processes disturbed them"
        return words

    @property
    def noise_fraction(self) -> float:
        """Differences of steps that are ties: the wider band of the two measurements."""
        return max(self.measured.noise_fraction, self.single_measured.noise_fraction)

    @property
    def ranking(self) -> Ranking:
        """Whether the estimate puts the plan and one rank in the order measured."""
        estimated = (float(self.estimated.step_seconds), float(self.single_estimated.step_seconds))
        measured = (self.measured.step_seconds, self.single_measured.step_seconds)
        return rank(estimated, measured, self.noise_fraction)


def rank(estimated: Sequence[float], measured: Sequence[float], noise_fraction: float) -> Ranking:
    """Whether estimated steps order plans as measured ones do; measured differences below the noise are ties.

    "wrong" when a pair that differs by more than the noise is ordered the other way round; else "confirmed" when
    some pair differs by more, and "tie" when none does.
    """
    pairs = list(itertools.combinations(zip(estimated, measured, strict=True), 2))
    apart = [
        (mine[0] < other[0]) == (mine[1] < other[1])
        for mine, other in pairs
        if abs(mine[1] - other[1]) > noise_fraction * min(mine[1], other[1])
    ]
    return "tie" if not apart else "confirmed" if all(apart) else "wrong"


def single_rank(plan: Plan) -> Plan:
    """The plan of one rank that does the same step."""
    return Plan(
        micro_batch=plan.micro_batch, recompute=plan.recompute, recompute_modules=plan.recompute_modules
    )  # fmt: skip


def validate_plan(
    job: TrainingJob,
    plan: Plan,
    cluster: Cluster,
    stack: SoftwareStack,
    *,
    num_launches: int = 4,
    num_steps: int = 10,
    num_warmup: int = 3,
    device: str = "auto",
    timeout_seconds: float = 600.0,
    oversubscribe: bool = False,
    on_progress: Progress | None = None,
    output: Path | None = None,
) -> Comparison:
    """Run `plan` of `job` here and set it beside its estimate and its simulation on `cluster`.

    Under torchrun every process joins as the rank it was started as and returns the same comparison. Launches are kept
    in a journal beside `output` where it is given (not under torchrun), so that the next call goes on from them; the
    journal is forgotten when all are there.

    Raises ValueError when the plan cannot be run or its losses are not those of one rank, and LaunchError when there is
    no room for it or a rank fails, dies or exceeds `timeout_seconds`.
    """
    check_runnable(job, plan)
    runner = Runner(job, num_warmup, num_steps, device, timeout_seconds, oversubscribe, on_progress, num_launches)
    if output is not None and "RANK" not in os.environ:
        runner.journal = Journal.beside(output, setting(job, runner))
    alone = single_rank(plan)
    for each in (plan, alone):
        check_room(job, each, stack)
    measured = runner.alternate([plan] if plan == alone else [alone, plan])
    peak = runner.peak(plan, stack)
    if runner.journal:
        runner.journal.forget()
    estimated, simulated = predicted(plan, job, cluster, stack)
    return Comparison(
        plan=plan,
        estimated=estimated,
        simulated=simulated,
        measured=measured[-1],
        measured_peak=peak,
        single_estimated=estimate(alone, job, cluster, stack),
        single_measured=measured[0],
        ranks_per_core=ranks_per_core(plan, cluster),
    )


__all__ = ["Comparison", "rank", "single_rank", "validate_plan"]
