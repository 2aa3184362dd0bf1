"""Estimated, simulated and measured side by side: one plan, part by part, with its speed-up over one rank.

Launches of the plan and of one rank alternate, so that a machine whose speed drifts hits both alike; what counts
is the median of the medians of fresh launches. A launch beside which other processes ran is run again.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate, estimate
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from simulator.play import play_plan
from validate.calibration.sampling import Launcher
from validate.launch import launch, run_rank
from validate.messages import check_messages, compare_messages
from validate.room import check_room
from validate.runnable import RunSpec, check_runnable

MOST_FOREIGN_CORES = 0.12
"""Cores that other processes may keep busy beside a launch that counts; below it the kernel's ticks are noise."""
MOST_OVER_BEST = 1.25
"""A launch slower than the best one by more than this met something that the counters did not see."""
MOST_REPEATS = 3
"""Launches of one kind that may be run again."""
LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 3e-2}
"""Largest relative difference of losses from those of one rank, by precision: else the split computes other things."""
NUM_COMPARED_STEPS = 3
"""Losses of later steps drift apart: an optimizer makes rounding grow."""
NOISE_FRACTION = 0.05
"""Differences below this are ties on any machine that does other things too."""

Ranking = Literal["confirmed", "tie", "wrong"]
Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


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
) -> Comparison:
    """Run `plan` of `job` here and set it beside its estimate and its simulation on `cluster`.

    Under torchrun every process joins as the rank it was started as and returns the same comparison.
    Raises ValueError when the plan cannot be run or its losses are not those of one rank, and LaunchError when there is
    no room for it or a rank fails, dies or exceeds `timeout_seconds`.
    """
    check_runnable(job, plan)
    runner = Runner(job, num_warmup, num_steps, device, timeout_seconds, oversubscribe, on_progress, num_launches)
    alone = single_rank(plan)
    for each in (plan, alone):
        check_room(job, each, stack)
    measured = runner.alternate([plan] if plan == alone else [alone, plan])
    peak = runner.peak(plan, stack)
    return Comparison(
        plan=plan,
        estimated=estimate(plan, job, cluster, stack),
        simulated=play_plan(plan, job, cluster, stack).breakdown,
        measured=measured[-1],
        measured_peak=peak,
        single_estimated=estimate(alone, job, cluster, stack),
        single_measured=measured[0],
    )


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
        """One launch of `plan`."""
        self.num_done += 1
        return _launch_of(self._run(plan, self.num_warmup, self.num_steps, measure_memory=False), self.num_warmup)

    def peak(self, plan: Plan, stack: SoftwareStack) -> Peak:
        """Peak memory, in a launch of its own whose allocator gives memory back at once.

        Raises ValueError if its ranks send other bytes than the plan says and no reason explains them.
        """
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


def _launch_of(results: Sequence[Row], num_warmup: int) -> Launch:
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
    "Comparison", "Launch", "Measurement", "Peak", "Runner", "check_losses", "exclusive_seconds", "measurement_of",
    "num_disturbed", "rank", "single_rank", "validate_plan",
]  # fmt: skip
