"""From a command line to an answer: a question about one plan, its estimate, and its play on the simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwise import jobfile
from meshwise.jobfile import Question
from meshwise.options import SearchFlags
from meshwise.screen import OnProgress
from planner.breakdown import Breakdown
from planner.choose.mixed_rules import check_placed, with_shares
from planner.cost.estimate import Estimate
from planner.plan import Plan
from planner.work.lanes import lane_plan
from profiles.files import validated
from profiles.mixed import MixedCluster

if TYPE_CHECKING:
    from meshwise.money.terms import Terms
    from planner.choose.losses import Loss
    from planner.choose.search import Answer
    from planner.choose.sensitivity import Sensitivity
    from planner.cost.inventory import Item
    from simulator.engine import Simulation


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one legal plan."""

    question: Question
    plan: Plan


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a step takes as long as it does."""

    losses: "list[Loss]"
    sensitivity: "Sensitivity"


def plan_question(
    file: Path | None, job_flags: Mapping[str, Any], split_flags: Mapping[str, Any], *, takes_turns: bool | None = None
) -> Asked:
    """The plan that a file and flags describe, on its job.

    `takes_turns`: whether it may have more ranks than a machine has cores (`jobfile.emulated`); None where nothing is
    run. Raises ValueError for anything missing, unknown or contradictory, and with every rule an illegal plan breaks.
    """
    asked = jobfile.read(file, job_flags, split_flags)
    table = jobfile.devices_of(asked)
    if takes_turns is None:
        question, num_ranks = jobfile.question(table), None
    else:
        question, num_ranks = jobfile.emulated(table, allowed=takes_turns)
    split = asked.split or jobfile.SplitTable()
    if isinstance(question.cluster, MixedCluster) and split.placement == "auto":
        return Asked(question, _placed(split, question))
    plan = with_shares(jobfile.plan(split, num_ranks or question.cluster.num_devices), question.job)
    plan = _laid_out(plan, split.layout, question)
    cluster = question.cluster.model_copy(update={"num_devices": num_ranks}) if num_ranks else question.cluster
    faults = check_placed(plan, question.job, cluster)
    if faults:
        raise ValueError(f"split: {'; '.join(faults)}")
    return Asked(question, plan)


def _placed(split: jobfile.SplitTable, question: Question) -> Plan:
    """The best placement and layout of a split on several groups of nodes; raises ValueError where none fits."""
    from planner.choose.mixed import search_any

    schedule = split.schedule or ("interleaved" if split.vp > 1 else "1f1b")
    stated = split.model_dump(exclude={"placement", "layout", "schedule"}, exclude_none=True) | {"schedule": schedule}
    found = search_any(question.job, question.cluster, question.stack, fixed=stated, top=1,
                       max_micro_batch=split.micro_batch).candidates  # fmt: skip
    if not found:
        raise ValueError(
            f"placement: no placement of this split on {question.cluster.name} fits; see what does with `meshwise plan`"
        )
    return found[0].plan


def _laid_out(plan: Plan, layout: str, question: Question) -> Plan:
    """`plan` with the best layout where that is asked for, or where equal stages are impossible."""
    from planner.cost.layouts import best_layout
    from planner.work.layers import divides_evenly, most_chunks, num_blocks

    blocks, chunks = num_blocks(question.job.model), plan.pp * plan.vp
    needed = layout == "auto" and question.stack.uneven_stages and not divides_evenly(blocks, chunks)
    if (layout != "best" and not needed) or not 1 < chunks <= most_chunks(question.job.model):
        return plan
    return replace(plan, layout=best_layout(plan, question.job, question.alike("--layout"), question.stack))


def estimate(asked: Asked) -> Estimate:
    """The closed-form estimate."""
    from planner.cost.mixed import price

    question = asked.question
    return price(asked.plan, question.job, question.cluster, question.stack)


def tensors(asked: Asked) -> "list[Item]":
    """Every tensor a rank of the fullest pipeline stage holds at its peak."""
    from planner.cost.inventory import inventory
    from planner.cost.memory import stage_memory

    question = asked.question
    if isinstance(question.cluster, MixedCluster):
        from planner.cost.mixed import tightest_seat

        seat = tightest_seat(asked.plan, question.job, question.cluster, question.stack)
        plan, job = lane_plan(asked.plan, seat.lane, question.job)
        return list(inventory(plan, job, question.stack, seat.stage))
    stages = stage_memory(asked.plan, question.job, question.stack)
    fullest = max(range(len(stages)), key=lambda rank: float(stages[rank].allocated_bytes))
    return list(inventory(asked.plan, question.job, question.stack, fullest))


def losses(asked: Asked, answer: Estimate) -> "list[Loss]":
    """Where the step goes, from the ideal on."""
    from planner.choose.losses import losses as lost

    question = asked.question
    return lost(answer, question.job, question.alike("--plot"), question.stack)


def explanation(asked: Asked, answer: Estimate) -> "Explanation":
    """The waterfall of one plan, and what limits it and the best plan."""
    from planner.choose.sensitivity import sensitivity

    question = asked.question
    found = sensitivity(asked.plan, question.job, question.alike("--explain"), question.stack)
    return Explanation(losses(asked, answer), found)


def best_plans(
    question: Question, fixed: Mapping[str, Any], look: SearchFlags, on_progress: OnProgress,
    price: "Terms | None" = None,
) -> "Answer":  # fmt: skip
    """The search that `look` describes, its best plans simulated unless it says not to; at a `price` if one is known.

    Raises ValueError for a condition, objective or fixed field that is not understood.
    """
    from planner.choose.mixed import search_any
    from planner.choose.requirements import objective_named, parse_requirement

    return search_any(
        question.job,
        question.cluster,
        question.stack,
        fixed=fixed,
        top=look.top,
        max_micro_batch=look.max_micro_batch,
        exhaustive=look.exhaustive,
        objective=objective_named(look.objective),
        requirements=[parse_requirement(text) for text in look.require or []],
        wants_front=look.pareto,
        dollars=price.dollars if price else None,
        simulate=None if look.no_simulate else lambda one: played_breakdown(question, one),
        on_progress=on_progress,
    )


def another(text: str, question: Question, answer: "Answer") -> tuple[str, Estimate]:
    """(what to call it, its estimate) of the plan that `text` names: a number in the ranking, or FIELD=VALUE,...

    Raises ValueError for a number that is not ranked, a field that is none, and every rule an illegal plan breaks.
    """
    from planner.cost.mixed import price

    if text.isdecimal():
        number = int(text)
        if not 1 <= number <= len(answer.candidates):
            raise ValueError(f"explain: plan {number} is not in the ranking of {len(answer.candidates)}; raise --top")
        return f"plan {number}", answer.candidates[number - 1].estimate
    fields = fixed_fields(text.split(","), None, "--explain")
    plan = jobfile.plan(validated(jobfile.SplitTable, fields, "--explain"), question.cluster.num_devices)
    faults = check_placed(plan, question.job, question.cluster)
    if faults:
        raise ValueError(f"explain: {'; '.join(faults)}")
    return str(plan), price(plan, question.job, question.cluster, question.stack)


MAX_ACTIONS = 5_000_000
"""Forwards and backwards a simulation may have; it plays some 100,000 a second."""


def play(question: Question, plan: Plan) -> "Simulation":
    """The plan's step program on the simulator's clock, at the estimate's prices.

    Raises ValueError when the step has more actions than anyone would wait for.
    """
    num_actions = 2 * plan.num_microbatches(question.job.global_batch) * plan.pp * plan.vp
    if num_actions > MAX_ACTIONS:
        raise ValueError(
            f"global_batch: {question.job.global_batch:,} under {plan} makes {num_actions:,} actions to simulate, "
            f"and {MAX_ACTIONS:,} are allowed; use a smaller batch or `meshwise estimate` (`plan --no-simulate`)"
        )
    from simulator.play import play_plan

    return play_plan(plan, question.job, question.cluster, question.stack)


def played_breakdown(question: Question, plan: Plan) -> Breakdown:
    """Where the simulated step's time goes on the slowest rank."""
    return play(question, plan).breakdown


def fixed_fields(
    texts: Sequence[str], split: "jobfile.SplitTable | None", option: str = "--fix"
) -> dict[str, int | str | bool]:
    """`FIELD=VALUE` texts as plan fields held to a value, over the fields that a file's `[split]` sets.

    Raises ValueError naming the text, and what is right.
    """
    fixed: dict[str, Any] = dict(split.model_dump(exclude_unset=True)) if split else {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in jobfile.SplitTable.model_fields:
            fields = ", ".join(jobfile.SplitTable.model_fields)
            raise ValueError(f"{option} {text}: write FIELD=VALUE, with a field out of {fields}")
        fixed[name] = _literal(value.strip())
    table = validated(jobfile.SplitTable, fixed, option)
    return {name: value for name, value in table.model_dump().items() if name in fixed and value is not None}


def _literal(text: str) -> int | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isdecimal() and len(text) < 20 else text
