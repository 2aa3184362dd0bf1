"""Answers of `meshwise validate` without a run: comparisons, sweeps and served loads of made-up measurements."""

from pathlib import Path
from typing import Any

from meshwise import jobfile
from meshwise.jobfile import JobTable, Question
from meshwise.serving.serving_here import ServedHere
from meshwise.serving.traffic import traffic
from planner.breakdown import Breakdown
from planner.cost.estimate import estimate
from planner.plan import Plan
from profiles import catalog
from simulator.play import play_plan
from validate.calibration.quiet import Probe
from validate.compare import Comparison as RunComparison
from validate.measured import Launch, Measurement, Peak
from validate.serving.compare import Comparison as LoadComparison
from validate.serving.compare import Figures, Server
from validate.serving.prices import MeasuredPrices
from validate.sweep.outcome import Failure, Outcome, Sweep

ROOT = Path(__file__).parent.parent


def asked() -> Question:
    """A small job on two devices."""
    return jobfile.question(JobTable(model="gpt2", cluster="l40s", devices=2, global_batch=8))


def _measured(question: Question, plan: Plan, factor: float) -> tuple[dict[str, Any], Measurement]:
    cluster = question.alike("test")
    said = estimate(plan, question.job, cluster, question.stack)
    seconds = factor * float(said.step_seconds)
    launches = tuple(
        Launch((each * seconds, seconds), 0.05, (1.0,), Breakdown(forward_seconds=seconds)) for each in (0.9, 1.1)
    )
    played = play_plan(plan, question.job, cluster, question.stack).breakdown
    return {"plan": plan, "estimated": said, "simulated": played}, Measurement(launches, 1, 0)


def comparison(question: Question) -> RunComparison:
    """Two ranks beside one."""
    parts, measured = _measured(question, Plan(dp=2), 1.1)
    alone, single = _measured(question, Plan(), 1.2)
    return RunComparison(**parts, measured=measured, measured_peak=Peak(1e9, 2e9),
                         single_estimated=alone["estimated"], single_measured=single)  # fmt: skip


def sweep(question: Question) -> Sweep:
    """Two plans, and one that did not run."""

    def outcome(plan: Plan, factor: float) -> Outcome:
        parts, measured = _measured(question, plan, factor)
        return Outcome(**parts, measured=measured, peak=Peak(1e9))

    plans = (outcome(Plan(dp=2), 1.1), outcome(Plan(tp=2), 1.3))
    failure = Failure(Plan(pp=2), "a rank died")
    return Sweep(outcome(Plan(), 1.2), plans, (failure,), 1, (Probe(0.0, 1.0), Probe(0.0, 1.0)))


def served(path: Path) -> ServedHere:
    """A load that is answered nearly as predicted."""
    from meshwise.serving.jobfile import read

    model = catalog.model("gpt2")
    load = traffic(read(path).load, 0)
    figures = (Figures(0.2, 0.05, 90.0), Figures(0.21, 0.048, 95.0), Figures(0.2, 0.05, 91.0))
    return ServedHere(Server(model), [LoadComparison(load, *figures, _prices())])  # type: ignore[arg-type]


def _prices() -> MeasuredPrices:
    return MeasuredPrices.__new__(MeasuredPrices)
