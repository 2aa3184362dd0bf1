"""The error bar of a plan, and whether two plans are within error of each other."""

from meshwise.jobfile import Question
from planner.choose.search import Candidate
from planner.cost.intervals import Interval, interval, within_error
from planner.plan import Plan


def error_bar(question: Question, plan: Plan, step_seconds: float) -> Interval:
    """The interval of a predicted step."""
    return interval(step_seconds, plan, question.job, question.cluster, question.stack)


def is_tied(candidate: Candidate, best: Candidate) -> bool:
    """Whether the steps of a candidate and of the best are closer than such predictions miss.

    Ranked by memory, the best may be the slower one.
    """
    faster, slower = sorted((best, candidate), key=lambda one: float(one.step_seconds))
    return within_error(float(slower.step_seconds), slower.plan, float(faster.step_seconds), faster.plan)
