"""Where plans lie on several groups of nodes, and what lying otherwise would cost."""

from rich.console import Console

from meshwise.tables.parts import table
from planner.choose.explain import duration
from planner.choose.search import Answer
from planner.choose.skeletons import way_of
from planner.placement import written

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
