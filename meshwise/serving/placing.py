"""`plan` of a job of several models: which devices each gets, all targets met, as cheaply as can be."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from meshwise.serving import playing
from meshwise.serving.asking import question_among, space_of
from meshwise.serving.deployed import pool_fields, well_routed
from meshwise.serving.estimating import lengths_of
from meshwise.serving.jobfile import ServingFile
from meshwise.serving.playing import ServingAnswer
from meshwise.serving.traffic import traffic, with_tasks
from planner.choose.serving_replicas import ServingQuestion
from planner.choose.together import SHARES, Choice, Together, able, choices, placed
from planner.serving import ServingPlan
from simulator.serving.requests import Requests

NUM_PLAYED = 2
"""Placements that are simulated of each reserve, the cheapest first, until one meets all targets."""
RESERVES = (1.0, 1.15, 1.35, 1.6, 2.0)
"""Rates that are provided for, over those asked: closed forms are of means, targets of nearly every request."""


@dataclass(frozen=True, slots=True)
class PlacedModels:
    """The answer: placements by cost, and what the simulator made of the first ones."""

    file: ServingFile
    questions: tuple[ServingQuestion, ...]
    ranked: tuple[Together, ...]
    played: tuple[ServingAnswer, ...]
    """Of the first placements, in order; the last of them is the first that meets all targets, if one does."""
    refused: dict[str, int]
    """Reason -> replicas, of the models that have none."""

    @property
    def best(self) -> int | None:
        """The number of the cheapest placement that was played and met the targets, or, where none was played, 0."""
        if not self.played:
            return 0 if self.ranked else None
        return len(self.played) - 1 if self.played[-1].is_met else None


def best_placements(
    file: ServingFile, *, simulates: bool = True, on_progress: Callable[[str, int, int], None] | None = None
) -> PlacedModels:
    """The cheapest devices for every model of a job under its tasks.

    Raises ValueError for a closed loop, pools for prompts, and names that are not known.
    """
    requests = with_tasks(traffic(file.load, file.load.seed), file, file.load.seed)
    questions = tuple(_question(file, number, requests) for number in range(len(file.serving)))
    those, refused = [], Counter[str]()
    for table, question in zip(file.serving, questions, strict=True):
        own: Counter[str] = Counter()
        shares = (table.device_fraction,) if "device_fraction" in table.model_fields_set else SHARES
        those.append(able(question, space_of(table, question), own, shares))
        refused += Counter() if those[-1] else own
    tried: dict[tuple[ServingPlan, ...], tuple[Together, ServingAnswer | None]] = {}
    for number, reserve in enumerate(RESERVES):
        rates = [question.requests_per_second or 0.0 for question in questions]
        options = [choices(one, rate, reserve) for one, rate in zip(those, rates, strict=True)]
        for one in placed(options, questions[0].rooms, NUM_PLAYED):
            plans = tuple(choice.plan for choice in one.choices)
            if plans in tried:
                continue
            if on_progress is not None and simulates:
                on_progress("simulate", number, len(RESERVES))
            answer = playing.simulate(with_placement(file, one.choices)) if simulates else None
            tried[plans] = (one, answer)
            if answer is not None and answer.is_met:
                return PlacedModels(file, questions, *_columns(tried), {})
        if not simulates:
            break
    return PlacedModels(file, questions, *_columns(tried), dict(refused.most_common()))


def _columns(
    tried: dict[tuple[ServingPlan, ...], tuple[Together, ServingAnswer | None]],
) -> tuple[tuple[Together, ...], tuple[ServingAnswer, ...]]:
    return tuple(one for one, _ in tried.values()), tuple(found for _, found in tried.values() if found is not None)


def with_placement(file: ServingFile, chosen: tuple[Choice, ...]) -> ServingFile:
    """The job with every model where it was placed."""
    tables = []
    for table, one in zip(file.serving, chosen, strict=True):
        changes = {name: getattr(one.plan, name) for name in ("weights", "expert_weights", "kv_dtype")}
        tables.append(well_routed(table.model_copy(update=changes | pool_fields(one.plan.decode))))
    return file.model_copy(update={"serving": tuple(tables)})


def _question(file: ServingFile, number: int, requests: Requests) -> ServingQuestion:
    """Of one model: the requests that its steps make, and the targets that it alone must meet.

    A task of one step leaves its targets to its model. Of several steps the last one is held to the time per token; the
    first token and the end depend on all of them, and only the simulation says.
    """
    table = file.serving[number]
    if table.prefill is not None:
        raise ValueError("serving.prefill: pools for prompts are not placed together with other models; leave it out")
    if table.device_fraction not in SHARES:
        raise ValueError(f"device_fraction: {table.device_fraction:g} is not placed by a search; it knows 1 and 0.5")
    if file.load.concurrency is not None:
        raise ValueError("concurrency: a search needs a rate (requests_per_second or a trace)")
    mine = requests.tenant_index >= 0 if requests.deployment is None else requests.deployment == number
    lengths = lengths_of(requests.input_tokens[mine], requests.output_tokens[mine], file.targets)
    heads = requests.arrival_seconds[requests.heads]
    rate = file.load.requests_per_second or (len(heads) - 1) / float(heads[-1] - heads[0])
    limits = [_limits(file, task_number, table.name or table.model) for task_number in range(len(file.task))]
    ttft, tpot, e2e = (min(column) for column in zip(*limits, strict=True))
    return replace(
        question_among(file, table), lengths=lengths, requests_per_second=rate * float(mine.sum()) / len(heads),
        ttft_seconds=ttft, tpot_seconds=tpot, e2e_seconds=e2e,
    )  # fmt: skip


def _limits(file: ServingFile, number: int, name: str) -> tuple[float, float, float]:
    task = file.task[number]
    limits = task.targets or file.targets
    is_last, is_only = task.step[-1].serving == name, len(task.step) == 1 and task.step[0].serving == name
    infinite = float("inf")
    return (
        (limits.ttft_seconds or infinite) if is_only else infinite,
        (limits.tpot_seconds or infinite) if is_last else infinite,
        (limits.e2e_seconds or infinite) if is_only else infinite,
    )
