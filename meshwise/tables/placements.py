"""Where plans lie on several groups of nodes, and what lying otherwise would cost."""

from itertools import groupby

from rich.console import Console

from meshwise.jobfile import Question
from meshwise.tables.parts import table
from planner.choose.explain import duration
from planner.choose.search import Answer
from planner.choose.skeletons import way_of
from planner.cost.estimate import Estimate
from planner.cost.mixed import lane_breakdown
from planner.placement import written
from planner.plan import Plan
from profiles.cluster import Cluster

WAY_WORDS = {
    "side by side": "replicas on each group, gradients cross",
    "in line": "the stages of every replica on one group after the other, activations cross",
    "in line and side by side": "some replicas in line, others on one group",
}


def show_placements(console: Console, answer: Answer) -> None:
    """What each ranked plan puts where, and the best plan of each way to lie; nothing where all nodes are alike."""
    if not answer.ways:
        return
    console.print("\nwhere they lie (replicas of: stages on group @microbatches a step)", style="bold")
    for number, candidate in enumerate(answer.candidates, start=1):
        console.print(f"  {number}  {written(candidate.plan.placement)}", markup=False, soft_wrap=True)
    made = table("across the groups", ">estimate", "against the fastest")
    for one in answer.ways:
        way = way_of(one.plan.placement)
        words = f"{way}: {WAY_WORDS[way]}" if way in WAY_WORDS else f"{way}, the others idle"
        made.add_row(words, duration(float(one.step_seconds)), one.reason)
    console.print()
    console.print(made)


def show_lanes(console: Console, question: Question, answer: Estimate) -> None:
    """How long each lane of a plan on several groups of nodes takes; nothing for a single one."""
    assert isinstance(answer.plan, Plan)
    plan, cluster = answer.plan, question.cluster
    if isinstance(cluster, Cluster) or len(plan.placement) < 2:
        return
    made = table(">replicas", "stages on", ">microbatches", ">step", ">waits", title="replicas by where they lie")
    steps = [lane_breakdown(plan, lane, question.job, cluster, question.stack).step_seconds for lane in plan.placement]
    for lane, step in zip(plan.placement, steps, strict=True):
        runs = [(name, len(list(same))) for name, same in groupby(lane.stages)]
        stages = ", ".join(f"{count} on {name}" for name, count in runs)
        waits = 1.0 - float(step) / float(max(steps))
        made.add_row(f"{lane.num_replicas}", stages, f"{lane.num_microbatches}", duration(float(step)), f"{waits:.1%}")
    console.print(made)
    console.print()
