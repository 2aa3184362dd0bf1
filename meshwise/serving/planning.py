"""`plan` of a serving job: the best deployments in closed form, the first of them played by the simulator."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshwise.serving import playing
from meshwise.serving.estimating import load_figures
from meshwise.serving.jobfile import PoolTable, ServedTable, ServingFile
from planner.choose.serving import ServingCandidate, ServingFound, search_serving
from planner.choose.serving_replicas import Room, ServingQuestion, ServingSpace
from planner.serving import Pool
from profiles import catalog
from profiles.model import TransformerShape
from simulator.serving.statistics import Summary

NUM_PLAYED = 3
"""Candidates of a search that are simulated."""
NARROW_FORMS = {"fp8": "fp8", "fp4": "nvfp4"}
"""Format the device multiplies -> form of the weights that is offered beside 16 bits."""


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
    if len(file.serving) != 1:
        raise ValueError("serving: a search deploys one model; give each model a file of its own")
    if file.load.concurrency is not None:
        raise ValueError("concurrency: a search needs a rate (requests_per_second or a trace), or none for the highest")
    table, load = file.serving[0], load_figures(file)
    model = catalog.model(table.model)
    if not isinstance(model, TransformerShape):
        raise ValueError(f"model: {model.name} is a plain list of layers; a served model makes tokens")
    limits = file.targets
    question = ServingQuestion(
        model, catalog.cluster(file.job.cluster, file.job.devices), catalog.engine(table.engine), load.lengths,
        load.requests_per_second, limits.ttft_seconds or math.inf, limits.tpot_seconds or math.inf,
        limits.e2e_seconds or math.inf, table.draft_tokens, table.acceptance_fraction, table.eager,
        file.job.dollars_per_device_hour, _others(file), file.job.cluster,
    )  # fmt: skip
    found = search_serving(question, _space(table, question), top=top)
    ranked = []
    for index, one in enumerate(found.candidates):
        plays = simulates and index < NUM_PLAYED
        if on_progress is not None and plays:
            on_progress("simulate", index, NUM_PLAYED)
        ranked.append(PlayedCandidate(one, _figures(file, one) if plays else None))
    ranked.sort(key=lambda one: not _meets(file, one))
    return ServingPlans(question, found, tuple(ranked), file)


def _others(file: ServingFile) -> tuple[Room, ...]:
    """The job's further clusters."""
    return tuple(
        Room(catalog.cluster(one.cluster, one.devices), one.dollars_per_device_hour, one.cluster)
        for one in file.job.others
    )


def _meets(file: ServingFile, one: PlayedCandidate) -> bool:
    return one.figures is not None and one.figures.attained_fraction.value >= file.targets.attained_fraction


def _figures(file: ServingFile, one: ServingCandidate) -> Summary:
    """What the simulator makes of a candidate under the job's own requests."""
    return playing.simulate(with_plan(file, one)).runs[0].figures


def with_plan(file: ServingFile, one: ServingCandidate) -> ServingFile:
    """The job with the deployment of a candidate, as `simulate` and `export` read it."""
    plan = one.plan
    changes: dict[str, Any] = {name: getattr(plan, name) for name in ("weights", "expert_weights", "kv_dtype")}
    changes |= _pool_fields(plan.decode)
    changes["prefill"] = PoolTable(**_pool_fields(plan.prefill)) if plan.prefill else None
    table = file.serving[0].model_copy(update=changes)
    load = file.load
    if load.requests_per_second is None and load.trace is None:
        load = load.model_copy(update={"requests_per_second": one.requests_per_second})
    return file.model_copy(update={"serving": (table,), "load": load})


_POOL_FIELDS = ("replicas", "tp", "pp", "ep", "attention_dp", "token_budget", "max_sequences", "cluster")


def _pool_fields(pool: Pool) -> dict[str, Any]:
    return {name: getattr(pool, name) for name in _POOL_FIELDS}


def _space(table: ServedTable, question: ServingQuestion) -> ServingSpace:
    """Choices of the fields that the table leaves open."""
    stated = table.model_fields_set
    peaks = {name for room in question.rooms for name in room.cluster.accelerator.peak_flops_per_second}
    changes: dict[str, Any] = {}
    if "weights" in stated:
        changes["forms"] = ((table.weights, table.expert_weights),)
    else:
        narrow = [NARROW_FORMS[name] for name in NARROW_FORMS if name in peaks]
        changes["forms"] = tuple((form, "") for form in ("bf16", *narrow))
    narrow_kv = ("bf16", "fp8") if "fp8" in peaks else ("bf16",)
    changes["kv_dtypes"] = (table.kv_dtype,) if "kv_dtype" in stated else narrow_kv
    for name, field in (("tp", "tp"), ("pp", "pp"), ("ep", "ep"), ("attention_dp", "attention_dp"),
                        ("token_budget", "token_budgets"), ("max_sequences", "sequence_limits")):  # fmt: skip
        if name in stated and getattr(table, name) is not None:
            changes[field] = (getattr(table, name),)
    if question.model.moe is None and "attention_dp" not in stated:
        changes["attention_dp"] = (1,)
    changes["room"] = table.cluster
    changes["prompt_room"] = table.prefill.cluster if table.prefill is not None else None
    changes["disaggregates"] = "prefill" not in stated or table.prefill is not None
    return ServingSpace(**changes)


def render(file: ServingFile) -> str:
    """A job file's text, with the deployment it states."""
    lines: list[str] = []
    for name in ("job", "load", "targets"):
        values = getattr(file, name).model_dump(exclude_none=True, exclude_defaults=name != "job")
        lines += [f"[{name}]", *_lines({key: one for key, one in values.items() if one != ()}), ""] if values else []
    table = file.serving[0].model_dump(exclude_none=True, exclude={"prefill", "scaling", "failures"})
    lines += ["[serving]", *_lines({name: value for name, value in table.items() if value != ""}), ""]
    if file.serving[0].prefill is not None:
        pool = file.serving[0].prefill.model_dump(exclude_none=True, exclude={"scaling", "failures"})
        lines += ["[serving.prefill]", *_lines(pool)]
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
