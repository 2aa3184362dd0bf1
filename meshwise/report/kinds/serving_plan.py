"""The report of `meshwise plan` of a serving job: the best deployments, and the front of the two rates."""

from pathlib import Path

from meshwise.report.assembling import assembled, kind
from meshwise.report.cells import NONE, figure, percent, plain, predicted
from meshwise.report.document import Block, Cell, Column, Picture, Report, Section, Table
from meshwise.report.figures.serving import draw_rates, draw_times
from meshwise.report.limits import serving_limits
from meshwise.report.served import asked_section, engine_basis, rate_cell, sources_of, targets_words, time_cell
from meshwise.serving.planning import ServingPlans
from meshwise.serving.stage import PlayedCandidate
from meshwise.tables.serving_plans import plan_words
from planner.choose.explain import duration
from planner.choose.serving import ServingCandidate
from planner.choose.serving_replicas import ServingQuestion
from simulator.serving.statistics import LEVEL


@kind("serving-plan")
def serving_plan_report(answer: ServingPlans, path: Path) -> Report:
    """The ranked deployments of a search, or why none serves the load."""
    name = answer.question.model.name
    found = Section("The deployments", _ranking(answer) if answer.ranked else ())
    front = Section("Speed for one user against throughput", _front(answer) if answer.found.pareto else ())
    return assembled(
        f"Serving plan: {name}" if answer.ranked else f"No deployment: {name}",
        (_summary(answer), engine_basis(answer.question.engine)),
        asked_section(answer.file, path),
        (found, front, Section("What was ruled out", _refused(answer) if answer.found.refused else ())),
        sources_of(answer.file),
        serving_limits(),
    )


def _summary(answer: ServingPlans) -> str:
    question, found = answer.question, answer.found
    asked = question.requests_per_second
    rooms = " or ".join(f"{room.cluster.num_devices} devices of {room.cluster.name}" for room in question.rooms)
    goal = f"{asked:g} requests/s" if asked else "as many requests as possible"
    head = f"Serving {question.model.name} on up to {rooms}: {goal}, {targets_words(answer.file)}."
    if not answer.ranked:
        return f"{head} None of {found.num_considered:,} deployments does it."
    best = answer.ranked[0]
    one = best.candidate
    words = (
        f"{head} The best of {found.num_considered:,} deployments takes {one.plan.num_devices} devices: "
        f"{plan_words(one.plan)}. It answers up to {_most(question, one):,.1f} requests/s within the targets, "
        f"with the first token after {duration(best.times[0])} in the mean."
    )
    if best.figures is not None:
        share = best.figures.attained_fraction
        words += f" Played request by request, {100.0 * share.value:.1f} % stay within all targets."
    return words


def _ranking(answer: ServingPlans) -> tuple[Block, ...]:
    engine = answer.question.engine
    several, is_priced = bool(answer.question.others), answer.ranked[0].candidate.dollars_per_hour is not None
    columns = (
        Column("#", is_number=True),
        Column("devices", is_number=True),
        *((Column("price", "$/h", is_number=True),) if is_priced else ()),
        Column("deployment"),
        Column("most requests", "1/s", "under the targets", is_number=True, is_prediction=True),
        Column("first token", "", "mean", is_number=True, is_prediction=True),
        Column("99 % below", "", "of the first token", is_number=True, is_prediction=True),
        Column("per token", "", is_number=True, is_prediction=True),
        Column("played", "%", "requests within all targets, where the simulator played it", is_number=True,
               is_prediction=True),
    )  # fmt: skip
    rows = tuple(
        (
            plain(number),
            plain(one.candidate.plan.num_devices),
            *((figure(one.candidate.dollars_per_hour, "{:,.2f}".format),) if is_priced else ()),
            plain(plan_words(one.candidate.plan, names_clusters=several)),
            figure(_most(answer.question, one.candidate), "{:,.1f}".format),
            *(time_cell(engine, seconds, name) for seconds, name in zip(one.times, _TIMES, strict=True)),
            _played(one),
        )
        for number, one in enumerate(answer.ranked, start=1)
    )
    words = ("first token, mean", "first token, 99 % below", "each further token")
    times = list(zip(words, answer.ranked[0].times, _TIMES, strict=True))
    basis = (
        f"{engine_basis(engine)} Times are of the simulation where one was played; ranges of the share: "
        f"{100.0 * LEVEL:.0f} %, of the simulation alone."
    )
    return (
        Picture("times", "What users of the best deployment wait for",
                "Predicted times and the range of nine in ten measurements.", lambda: draw_times(engine, times)),
        Table("deployments, best first", columns, rows, basis, 0),
    )  # fmt: skip


_TIMES = ("ttft", "ttft", "tpot")
"""Errors of engines by which the times of a candidate may be off."""


def _most(question: ServingQuestion, one: ServingCandidate) -> float:
    """The rate within the targets; where the highest is asked, the one that was played."""
    return one.most_requests_per_second if question.requests_per_second else one.requests_per_second


def _played(one: PlayedCandidate) -> Cell:
    if one.figures is None:
        return Cell(NONE, -1.0)
    share = one.figures.attained_fraction
    return predicted(percent, share.value, max(share.low, 0.0), min(share.high, 1.0))


def _front(answer: ServingPlans) -> tuple[Block, ...]:
    front, engine = answer.found.pareto, answer.question.engine
    columns = (
        Column("of a user", "tokens/s", "how fast one answer streams", is_number=True, is_prediction=True),
        Column("of a device", "tokens/s", "of all answers together", is_number=True, is_prediction=True),
        Column("devices", is_number=True),
        Column("deployment"),
    )
    rows = tuple(
        (
            rate_cell(engine, one.tokens_per_second_per_user),
            figure(one.tokens_per_second_per_device, "{:,.0f}".format),
            plain(one.plan.num_devices),
            plain(plan_words(one.plan)),
        )
        for one in front
    )  # fmt: skip
    return (
        Picture("front", "Tokens a second of a user against those of a device",
                "Each mark is a deployment that no other beats in both; further up and to the right is better.",
                lambda: draw_rates([one.tokens_per_second_per_user for one in front],
                                   [one.tokens_per_second_per_device for one in front],
                                   [one.plan.num_devices for one in front])),
        Table("deployments that no other beats in both", columns, rows, engine_basis(engine)),
    )  # fmt: skip


def _refused(answer: ServingPlans) -> tuple[Block, ...]:
    columns = (Column("replicas", is_number=True), Column("reason"))
    rows = tuple((plain(count), plain(reason)) for reason, count in answer.found.refused.items())
    return (Table("replicas that were ruled out, by reason", columns, rows),)
