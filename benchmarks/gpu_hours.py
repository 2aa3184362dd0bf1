"""Whole training runs: device hours as published, beside what meshwise predicts, with its interval.

`python -m benchmarks.gpu_hours`. No step is fitted to these runs: splits, batches and clusters are as their authors
state them, steps are the estimate's, and stops are those of a published fleet (profiles/data/reliability). What is
assumed is printed, and where a fleet's times were chosen in view of the run itself.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meshwise import jobfile, longrun
from meshwise.asking import Asked
from planner.cost.estimate import estimate
from planner.cost.intervals import interval
from profiles.record import Count, Positive
from profiles.units import DAY, HOUR

TABLE = Path(__file__).with_name("published_gpu_hours.toml")
BAR = 0.15
"""Largest error asked for."""
NUM_RUNS = 40
"""Of the failure simulation, for each phase."""


class Phase(BaseModel):
    """A part of a run with one batch on one number of devices."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: Positive
    devices: Count
    global_batch: Count
    sequence_length: Count
    cp: Count = 1


class PublishedRun(BaseModel):
    """What the authors of a run say of it; hours are those of one device."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    source: str = Field(min_length=1)
    device_hours: Positive
    computing_hours: Positive | None = None
    model: str
    cluster: str
    precision: str
    software: str
    stack: Mapping[str, Any] = {}
    fleet: str
    checkpoint_minutes: Positive | None = None
    spares: Count | None = None
    assumed: str
    split: Mapping[str, Any]
    phases: tuple[Phase, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Device hours of a run or of a phase, and the interval they are expected in."""

    computing_hours: float
    computing_low: float
    computing_high: float
    device_hours: float
    low_hours: float
    high_hours: float
    """The ends of the step's interval over those of the useful share."""

    def __add__(self, other: "Prediction") -> "Prediction":
        """One after the other; ends add up too, for whatever is wrong about one phase is wrong about the next."""
        return Prediction(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def published() -> tuple[PublishedRun, ...]:
    """The runs of the table."""
    return tuple(PublishedRun.model_validate(run) for run in tomllib.loads(TABLE.read_text(encoding="utf-8"))["runs"])


def predict(run: PublishedRun) -> Prediction:
    """Steps x step time x devices of each phase, over its useful share; both with their intervals."""
    first, *others = (_predict_phase(run, phase) for phase in run.phases)
    return sum(others, start=first)


def _predict_phase(run: PublishedRun, phase: Phase) -> Prediction:
    table = jobfile.JobTable.model_validate({
        "model": run.model, "cluster": run.cluster, "devices": phase.devices, "global_batch": phase.global_batch,
        "sequence_length": phase.sequence_length, "precision": run.precision, "software": run.software,
    })  # fmt: skip
    question = jobfile.question(table)
    plan = jobfile.plan(jobfile.SplitTable.model_validate({**run.split, "cp": phase.cp}), phase.devices)
    stack = question.stack.model_copy(update=dict(run.stack))
    found = float(estimate(plan, question.job, question.cluster, stack).step_seconds)
    bar = interval(found, plan, question.job, question.cluster, stack)
    hours = phase.tokens / question.job.tokens_per_step * phase.devices / HOUR
    flags = {"fleet": run.fleet, "spares": run.spares, "checkpoint_minutes": run.checkpoint_minutes}
    flags |= {"days": found * hours * HOUR / phase.devices / DAY, "runs": NUM_RUNS, "workers": 1}
    stops = longrun.answer(Asked(question, plan), {name: value for name, value in flags.items() if value is not None})
    mean, low, high = stops.spread("useful")
    return Prediction(
        computing_hours=found * hours,
        computing_low=bar.low_seconds * hours,
        computing_high=bar.high_seconds * hours,
        device_hours=found * hours / mean,
        low_hours=bar.low_seconds * hours / high,
        high_hours=bar.high_seconds * hours / low,
    )


def _line(what: str, measured: float, predicted: float, low: float, high: float) -> str:
    error = predicted / measured - 1.0
    verdict = f"{'within' if abs(error) <= BAR else 'beyond'} {BAR:.0%}"
    inside = "inside" if low <= measured <= high else "outside"
    return (
        f"  {what:<14}{measured:>12,.0f} published {predicted:>12,.0f} predicted {error:+7.1%} ({verdict}), "
        f"{inside} {low:,.0f} .. {high:,.0f}"
    )


def main() -> None:
    """Print every run."""
    for run in published():
        found = predict(run)
        print(f"{run.name}: {sum(phase.tokens for phase in run.phases):.3g} tokens on {run.cluster}")
        print(_line("device hours", run.device_hours, found.device_hours, found.low_hours, found.high_hours))
        if run.computing_hours:
            low, high = found.computing_low, found.computing_high
            print(_line("computing", run.computing_hours, found.computing_hours, low, high))
        print(f"  useful share  {found.computing_hours / found.device_hours:.1%}, stops as of {run.fleet}")
        print(f"  assumed       {' '.join(run.assumed.split())}\n")


if __name__ == "__main__":
    main()
