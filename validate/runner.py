"""Launches the plans of a job in turn, and keeps what each found.

Launches alternate, so that a machine whose speed drifts hits all plans alike; one beside which other processes ran is
run again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from planner.plan import Plan
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibration.journal import Journal
from validate.calibration.machine import machine_words, torch_version
from validate.calibration.sampling import Launcher
from validate.launch import launch, run_rank
from validate.measured import MOST_REPEATS, Launch, Measurement, Peak, Row, launch_of, measurement_of, num_disturbed
from validate.messages import check_messages, compare_messages
from validate.runnable import RunSpec

LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 3e-2}
"""Largest relative difference of losses from those of one rank, by precision: else the split computes other things."""
NUM_COMPARED_STEPS = 3
"""Losses of later steps drift apart: an optimizer makes rounding grow."""
Progress = Callable[[str, int, int], None]


def check_losses(split: Launch, whole: Launch, job: TrainingJob) -> None:
    """Raise ValueError unless `split` computes what one rank computes: else it is no validation, however fast."""
    pairs = list(zip(split.losses, whole.losses, strict=True))[:NUM_COMPARED_STEPS]
    worst = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    if not worst <= LOSS_TOLERANCE[job.precision]:
        raise ValueError(
            f"losses: the split's differ from those of one rank by {worst:.1e}, more than "
            f"{LOSS_TOLERANCE[job.precision]:.0e} in {job.precision}; it computes something else, so it is not timed"
        )


@dataclass(slots=True)
class Runner:
    """Launches of one job, with what they share."""

    job: TrainingJob
    num_warmup: int
    num_steps: int
    device: str
    timeout_seconds: float
    oversubscribe: bool
    on_progress: Progress | None
    num_launches: int
    num_done: int = 0
    launcher: Launcher = launch
    """What starts the ranks: `validate.launch.launch`, or the same of a test bed."""
    journal: Journal | None = None
    """Keeps every launch as soon as it ends, and gives back those of an interrupted measurement."""
    label: str = ""
    """What tells its launches from those of other jobs in the same journal."""
    num_taken: Counter[Plan] = field(default_factory=Counter)
    """Launches of each plan so far."""

    def alternate(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Measure `plans` in turn until each has `num_launches` undisturbed launches or is out of repeats.

        Every launch must show the losses of the first plan's first one.
        """
        found: list[list[Launch]] = [[] for _ in plans]
        total = self.num_launches * len(plans) + 1
        wanted = [self.num_launches for _ in plans]
        while any(len(launches) < want for launches, want in zip(found, wanted, strict=True)):
            for index, plan in enumerate(plans):
                if len(found[index]) >= wanted[index]:
                    continue
                found[index].append(self.timed(plan))
                check_losses(found[index][-1], found[0][0], self.job)
                self._tell(min(self.num_done, total - 1), total)
                if len(found[index]) == wanted[index]:
                    wanted[index] = min(
                        self.num_launches + num_disturbed(found[index]), self.num_launches + MOST_REPEATS
                    )
        return [measurement_of(launches, self.num_launches) for launches in found]

    def timed(self, plan: Plan) -> Launch:
        """The next launch of `plan`, kept or new."""
        self.num_done += 1
        number, self.num_taken[plan] = self.num_taken[plan], self.num_taken[plan] + 1
        return Launch.of_values(self._kept(plan, f"launch {number}", lambda: asdict(self._timed(plan))))

    def _timed(self, plan: Plan) -> Launch:
        return launch_of(self._run(plan, self.num_warmup, self.num_steps, measure_memory=False), self.num_warmup)

    def _kept(self, plan: Plan, what: str, measure: Callable[[], Row]) -> Row:
        """What the journal holds of `plan`, or what `measure` gives, put into the journal."""
        if self.journal is None:
            return measure()
        name = f"{self.label}{plan}: {what}"
        found = self.journal.kept(name)
        if found is None:
            found = [measure()]
            self.journal.keep(name, found)
        return found[0]

    def peak(self, plan: Plan, stack: SoftwareStack) -> Peak:
        """Peak memory, in a launch of its own whose allocator gives memory back at once.

        Raises ValueError if its ranks send other bytes than the plan says and no reason explains them.
        """
        return Peak(**self._kept(plan, "memory", lambda: asdict(self._peak(plan, stack))))

    def _peak(self, plan: Plan, stack: SoftwareStack) -> Peak:
        results = self._run(plan, 2, 2, measure_memory=True)
        check_messages(compare_messages(results, self.job, plan, stack))
        return Peak.of(results)

    def _run(self, plan: Plan, num_warmup: int, num_steps: int, *, measure_memory: bool) -> list[Row]:
        spec = RunSpec(
            self.job,
            plan,
            num_warmup=num_warmup,
            num_steps=num_steps,
            measure_memory=measure_memory,
            count_messages=measure_memory,
            device=self.device,
        )
        return self.launcher(
            run_rank, spec.to_json(), plan.num_ranks, timeout_seconds=self.timeout_seconds,
            oversubscribe=self.oversubscribe,
        )  # fmt: skip

    def _tell(self, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress("run", done, total)


def setting(job: TrainingJob, runner: Runner) -> dict[str, Any]:
    """What must be the same for launches to be taken up again."""
    return {
        "machine": machine_words(),
        "torch": torch_version(),
        "job": job.model_dump(mode="json"),
        "num_steps": runner.num_steps,
        "num_warmup": runner.num_warmup,
        "device": runner.device,
    }


__all__ = ["Progress", "Runner", "check_losses", "setting"]
