"""The error bar of a plan, and whether two plans are within error of each other."""

from meshwise.jobfile import Question
from planner.choose.search import Candidate
from planner.cost.intervals import Interval, interval, within_error
from planner.plan import Plan


def error_bar(question: Question, plan: Plan, step_seconds: float) -> Interval:
    """The interval of a predicted step."""
    return interval(step_seconds, plan, question.job, question.cluster, question.stack)


def is_tied(candidate: Candidate, best: Candidate) -> bool:
    """Whether a candidate is slower than the best by less than such predictions miss."""
    return within_error(float(candidate.step_seconds), candidate.plan, float(best.step_seconds), best.plan)
