"""Measures the plans of a sweep in rounds, so that a machine whose speed drifts hits all alike, and keeps each launch.

With a journal of its runner, a sweep that was interrupted, or failed, goes on from what it had measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibration.quiet import Probe
from validate.compare import single_rank
from validate.emulation import predicted, ranks_per_core
from validate.measured import MOST_REPEATS, Launch, Peak, measurement_of, num_disturbed
from validate.runner import Progress, Runner, check_losses
from validate.sweep.outcome import Failure, Outcome, Sweep


@dataclass(slots=True)
class Sweeper:
    """The plans of one sweep and what has been measured of them so far."""

    job: TrainingJob
    cluster: Cluster
    stack: SoftwareStack
    plans: Sequence[Plan]
    runner: Runner
    on_progress: Progress | None = None
    launches: dict[Plan, list[Launch]] = field(default_factory=dict)
    peaks: dict[Plan, Peak] = field(default_factory=dict)
    failures: dict[Plan, str] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)

    @property
    def alone(self) -> Plan:
        """The plan of one rank that does the same step, at the first plan's microbatch."""
        return single_rank(self.plans[0])

    def run(self) -> None:
        """Measure every plan in turn until each has its launches; a plan that fails is left out from then on.

        Raises ValueError when one rank alone cannot be run: nothing could be compared with it.
        """
        everyone = list(dict.fromkeys([self.alone, *self.plans]))
        total = len(everyone) * (self.runner.num_launches + 1)
        self.probes.append(Probe.now())
        for number in range(self.runner.num_launches + MOST_REPEATS):
            for plan in everyone:
                if plan not in self.failures and number < self._num_wanted(plan):
                    self._measure(plan)
                    if self.on_progress:
                        done = sum(map(len, self.launches.values())) + len(self.peaks)
                        self.on_progress("sweep", min(done, total), total)
            self.probes.append(Probe.now())

    def _num_wanted(self, plan: Plan) -> int:
        found, wanted = self.launches.get(plan, []), self.runner.num_launches
        return min(wanted + num_disturbed(found), wanted + MOST_REPEATS) if len(found) >= wanted else wanted

    def _measure(self, plan: Plan) -> None:
        """One launch of a plan, before the first one its peak memory too."""
        try:
            if plan not in self.peaks:
                self.peaks[plan] = self.runner.peak(plan, self.stack)
            launch = self.runner.timed(plan)
            if self.alone in self.launches:
                check_losses(launch, self.launches[self.alone][0], self.job)
        except ValueError as error:
            if plan == self.alone:
                raise
            self.failures[plan] = str(error)
            return
        self.launches.setdefault(plan, []).append(launch)

    def result(self) -> Sweep:
        """What has been measured so far; raises ValueError before one rank alone has been."""
        if self.alone not in self.launches:
            raise ValueError("sweep: nothing was measured before it ended")
        done = [plan for plan in self.plans if plan in self.launches and plan not in self.failures]
        return Sweep(
            alone=self._outcome(self.alone),
            outcomes=tuple(self._outcome(plan) for plan in done),
            failures=tuple(Failure(plan, reason) for plan, reason in self.failures.items()),
            num_pending=len(self.plans) - len(done) - len(self.failures),
            probes=tuple(self.probes),
        )

    def _outcome(self, plan: Plan) -> Outcome:
        found = self.launches[plan]
        estimated, simulated = predicted(plan, self.job, self.cluster, self.stack)
        return Outcome(
            plan=plan,
            estimated=estimated,
            simulated=simulated,
            measured=measurement_of(found, min(self.runner.num_launches, len(found))),
            peak=self.peaks[plan],
            ranks_per_core=ranks_per_core(plan, self.cluster),
        )
