"""Memory as tables: the fullest rank by part, every pipeline stage, and every tensor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from meshwise.jobfile import Question
from meshwise.tables.parts import bar, table
from planner.cost.estimate import Estimate
from planner.cost.fit import fit_of, upper_bytes
from planner.cost.intervals import memory_intervals
from planner.cost.memory import MemoryBreakdown, stage_memory
from planner.placement import written
from planner.plan import Plan
from planner.work.lanes import lane_plan
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.units import GIB, MIB

if TYPE_CHECKING:
    from planner.cost.inventory import Item

MAX_STAGES = 16
"""Stages shown one by one; more are shown by their extremes."""
STAGE_COLUMNS = (
    ">stage", ">states", ">activations", ">logits", ">workspace", ">allocated", ">reserved", ">device", ">upper", "",
)  # fmt: skip


def show_memory(console: Console, question: Question, answer: Estimate) -> None:
    """The fullest rank by part, as shares of the device."""
    assert isinstance(answer.plan, Plan)
    capacity = question.home(answer.plan).accelerator.memory_bytes
    made = table("part", ">GiB", ">of capacity", "", title="memory of the fullest rank")
    for part, num_bytes in answer.memory.parts().items():
        if num_bytes > 0.0:
            share = float(num_bytes) / capacity
            made.add_row(part, f"{num_bytes / GIB:.2f}", f"{share:.1%}", bar(share))
    peak = float(answer.memory.peak_bytes)
    made.add_row("peak", f"{peak / GIB:.2f}", f"{peak / capacity:.1%}", bar(peak / capacity), style="bold")
    console.print(made)
    device = memory_intervals(answer.memory).get("device")
    if device is not None:
        console.print(
            f"{device.level_fraction:.0%} range of what the device reads: {device.low_bytes / GIB:.1f} .. "
            f"{device.high_bytes / GIB:.1f} GiB ({device.num_runs} published runs)",
            style="dim",
            markup=False,
        )


def show_stages(console: Console, question: Question, plan: Plan) -> None:
    """What each pipeline stage holds, in GiB, with the upper end and the verdict; nothing for a single stage."""
    if plan.pp == 1:
        return
    if isinstance(question.cluster, Cluster):
        _show_lane(
            console, question.stack, stage_memory(plan, question.job, question.stack), [question.cluster] * plan.pp
        )
        return
    for lane in plan.placement:
        held = stage_memory(*lane_plan(plan, lane, question.job), question.stack)
        homes = [question.cluster.group(name).cluster for name in lane.stages]
        _show_lane(console, question.stack, held, homes, written((lane,)))


def _show_lane(
    console: Console, stack: SoftwareStack, stages: Sequence[MemoryBreakdown], homes: Sequence[Cluster], name: str = ""
) -> None:
    """The stages of a pipeline, each on the nodes that hold it."""
    last = len(stages) - 1
    shown = [rank for rank in range(last + 1) if last < MAX_STAGES or rank < MAX_STAGES - 1 or rank == last]
    title = f"memory by pipeline stage, GiB{': ' + name if name else ''}"
    made = table(*STAGE_COLUMNS, title=title)
    for rank in shown:
        memory = stages[rank]
        states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
        figures = (
            states, memory.activations_bytes, memory.logits_bytes, memory.workspace_bytes,
            memory.allocated_bytes, memory.reserved_bytes, memory.device_bytes, upper_bytes(memory, stack),
        )  # fmt: skip
        verdict = fit_of(memory, homes[rank], stack)
        made.add_row(str(rank), *(f"{float(figure) / GIB:.2f}" for figure in figures), str(verdict))
    console.print()
    console.print(made)
    if len(shown) <= last:
        console.print(f"{last + 1 - len(shown)} stages between the last two are not shown; --json has them all")


def show_tensors(console: Console, items: "Sequence[Item]") -> None:
    """Every tensor of a rank, in the order of the parts; nothing if there are none."""
    if not items:
        return
    made = table("part", "layer", "tensor", ">each, MiB", ">count", ">GiB", "kept by",
                 title="tensors of the fullest stage")  # fmt: skip
    for item in items:
        count = f"{item.num_held:,.2f}".rstrip("0").rstrip(".")
        made.add_row(
            item.part, item.layer, item.name, f"{item.each_bytes / MIB:,.2f}", count,
            f"{item.num_bytes / GIB:.3f}", item.kept_by,
        )  # fmt: skip
    made.add_row("", "", "total", "", "", f"{sum(item.num_bytes for item in items) / GIB:.3f}", "", style="bold")
    console.print()
    console.print(made)
