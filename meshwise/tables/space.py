"""What a search went through, as tables: the front of its plans, and what held the others back."""

from rich.console import Console
from rich.table import Table

from meshwise.jobfile import Question
from meshwise.tables.parts import table
from planner.choose.explain import duration
from planner.choose.search import Answer
from planner.cost.estimate import Estimate
from planner.cost.memory import usable_bytes
from profiles.units import GIB

MAX_FRONT_ROWS = 12
LONGEST_STEP = 2.0
"""Steps of a front beyond this many times the fastest are left out: few trade that much time for memory."""


def front_table(question: Question, front: tuple[Estimate, ...]) -> Table:
    """The trade of step time for memory: of a long front, rows spread evenly over it with both ends."""
    usable = usable_bytes(question.alike("--pareto"), question.stack)
    front = tuple(one for one in front if one.step_seconds <= LONGEST_STEP * front[0].step_seconds)
    made = table(
        ">step", ">GiB", ">headroom", ">slower", "plan", title="no plan is both faster and smaller (estimates)"
    )
    last = len(front) - 1
    count = min(len(front), MAX_FRONT_ROWS)
    for row in sorted({round(place * last / max(1, count - 1)) for place in range(count)}):
        one, peak = front[row], float(front[row].memory.peak_bytes)
        slower = float(one.step_seconds / front[0].step_seconds) - 1.0
        made.add_row(
            duration(float(one.step_seconds)), f"{peak / GIB:.1f}", f"{(usable - peak) / GIB:.1f}",
            f"+{slower:.1%}" if row else "", str(one.plan),
        )  # fmt: skip
    return made


def show_pruned(console: Console, answer: Answer) -> None:
    """How many plans there were, and how many of them each step of the search dropped and why."""
    console.print(
        f"searched {answer.num_plans:,} plans ({answer.num_splits:,} splits of the devices) in "
        f"{duration(answer.elapsed_seconds)}: {answer.num_legal:,} legal, {answer.num_fitting:,} fit in memory, "
        f"{answer.num_estimated:,} priced in full",
        markup=False,
    )
    held_back = [(f"break: {rule}", count) for rule, count in answer.rejected.items()]
    held_back += [(f"do not meet {text}", count) for text, count in answer.unmet.items()]
    held_back += [
        ("fit, but their kernels and blocking messages alone take longer than a plan shown", answer.num_too_slow)
    ]
    for words, count in sorted(held_back, key=lambda item: -item[1]):
        if count:
            console.print(f"{count:>9,} {words}", markup=False)
    console.print()
