"""The error bar of a plan, and whether two plans are within error of each other."""

from dataclasses import replace

from meshwise.jobfile import Question
from planner.choose.search import Candidate
from planner.cost.intervals import Interval, interval, within_error
from planner.plan import Plan
from profiles.cluster import Cluster


def error_bar(question: Question, plan: Plan, step_seconds: float) -> Interval:
    """The interval of a predicted step; on several groups of nodes that of the one whose steps are known least."""
    if isinstance(question.cluster, Cluster):
        return interval(step_seconds, plan, question.job, question.cluster, question.stack)
    used = {name for lane in plan.placement for name in lane.stages}
    plain = replace(plan, placement=())
    found = [
        interval(step_seconds, plain, question.job, group.cluster, question.stack)
        for group in question.cluster.groups
        if group.name in used
    ]
    return max(found, key=lambda one: float(one.high_seconds - one.low_seconds))


def is_tied(candidate: Candidate, best: Candidate) -> bool:
    """Whether the steps of a candidate and of the best are closer than such predictions miss.

    Ranked by memory, the best may be the slower one.
    """
    faster, slower = sorted((best, candidate), key=lambda one: float(one.step_seconds))
    return within_error(float(slower.step_seconds), slower.plan, float(faster.step_seconds), faster.plan)
