"""`plan` of a serving job: the best deployments in closed form, the first of them played by the simulator."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from meshwise.serving import playing
from meshwise.serving.asking import question_of, rooms_of, space_of
from meshwise.serving.jobfile import PoolTable, ServingFile
from planner.choose.serving import ServingCandidate, ServingFound, search_serving
from planner.choose.serving_replicas import ServingQuestion
from planner.serving import Pool, ServingPlan
from profiles import catalog
from simulator.serving.statistics import Summary

NUM_PLAYED = 3
"""Candidates of a search that are simulated."""


@dataclass(frozen=True, slots=True)
class PlayedCandidate:
    """A candidate, and what the simulator made of it; None where it was not played."""

    candidate: ServingCandidate
    figures: Summary | None = None


@dataclass(frozen=True, slots=True)
class ServingPlans:
    """The answer of a search."""

    question: ServingQuestion
    found: ServingFound
    ranked: tuple[PlayedCandidate, ...]
    file: ServingFile


def best_plans(
    file: ServingFile, *, top: int = 10, simulates: bool = True,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ServingPlans:  # fmt: skip
    """The best deployments of a job's one model. Fields that its [serving] table states are held,
    but for the number of replicas.

    Raises ValueError for several models, a closed loop, or names that are not known.
    """
    question = question_of(file, catalog.cluster(file.job.cluster, file.job.devices))
    question = replace(
        question, dollars_per_device_hour=file.job.dollars_per_device_hour, others=rooms_of(file)[1:],
        cluster_name=file.job.cluster,
    )  # fmt: skip
    found = search_serving(question, space_of(file.serving[0], question), top=top)
    ranked = []
    for index, one in enumerate(found.candidates):
        plays = simulates and index < NUM_PLAYED
        if on_progress is not None and plays:
            on_progress("simulate", index, NUM_PLAYED)
        ranked.append(PlayedCandidate(one, _figures(file, one) if plays else None))
    ranked.sort(key=lambda one: not _meets(file, one))
    return ServingPlans(question, found, tuple(ranked), file)


def _meets(file: ServingFile, one: PlayedCandidate) -> bool:
    return one.figures is not None and one.figures.attained_fraction.value >= file.targets.attained_fraction


def _figures(file: ServingFile, one: ServingCandidate) -> Summary:
    """What the simulator makes of a candidate under the job's own requests."""
    return playing.simulate(with_plan(file, one)).runs[0].figures


def with_plan(file: ServingFile, one: ServingCandidate) -> ServingFile:
    """The job with the deployment of a candidate, as `simulate` and `export` read it."""
    file = with_deployment(file, one.plan)
    load = file.load
    if load.requests_per_second is None and load.trace is None:
        load = load.model_copy(update={"requests_per_second": one.requests_per_second})
    return file.model_copy(update={"load": load})


def with_deployment(file: ServingFile, plan: ServingPlan) -> ServingFile:
    """The job of one model, served as `plan` says."""
    changes: dict[str, Any] = {name: getattr(plan, name) for name in ("weights", "expert_weights", "kv_dtype")}
    changes |= pool_fields(plan.decode)
    changes["prefill"] = PoolTable(**pool_fields(plan.prefill)) if plan.prefill else None
    return file.model_copy(update={"serving": (file.serving[0].model_copy(update=changes),)})


_FIELDS = ("replicas", "tp", "pp", "ep", "attention_dp", "token_budget", "max_sequences", "device_fraction", "cluster")


def pool_fields(pool: Pool) -> dict[str, Any]:
    """Those of a job's table."""
    return {name: getattr(pool, name) for name in _FIELDS}


def render(file: ServingFile) -> str:
    """A job file's text, with the deployment it states."""
    lines: list[str] = []
    for name in ("job", "load", "targets"):
        values = getattr(file, name).model_dump(exclude_none=True, exclude_defaults=name != "job")
        lines += [f"[{name}]", *_lines({key: one for key, one in values.items() if one != ()}), ""] if values else []
    several = len(file.serving) > 1
    for served in file.serving:
        table = served.model_dump(exclude_none=True, exclude={"prefill", "scaling", "failures"})
        name = "[[serving]]" if several else "[serving]"
        lines += [name, *_lines({key: value for key, value in table.items() if value != ""}), ""]
        if served.prefill is not None:
            pool = served.prefill.model_dump(exclude_none=True, exclude={"scaling", "failures"})
            lines += ["[serving.prefill]", *_lines(pool), ""]
    for task in file.task:
        lines += ["[[task]]", *_lines(task.model_dump(exclude_none=True, exclude_defaults=True)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False)
