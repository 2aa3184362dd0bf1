"""What a serving job asks of a search: its question, and the choices it leaves open."""

import math
from dataclasses import replace
from typing import Any

from meshwise.serving.estimating import load_figures
from meshwise.serving.jobfile import ServedTable, ServingFile
from meshwise.serving.modelling import draft_of, served_form, served_forms, served_model
from planner.choose.serving_replicas import Room, ServingQuestion, ServingSpace
from planner.cost.serving_load import Lengths
from profiles import catalog
from profiles.cluster import Cluster

NARROW_FORMS = {"fp8": "fp8", "fp4": "nvfp4"}
"""Format the device multiplies -> form of the weights that is offered beside 16 bits."""


def question_of(file: ServingFile, cluster: Cluster) -> ServingQuestion:
    """The question of a job of one model on `cluster`; raises ValueError for several models, a closed loop, or names
    that are not known."""
    if len(file.serving) != 1:
        raise ValueError("serving: this asks about one model; give each model a file of its own")
    if file.load.concurrency is not None:
        raise ValueError("concurrency: a search needs a rate (requests_per_second or a trace), or none for the highest")
    if file.serving[0].device_fraction < 1.0:
        raise ValueError("device_fraction: is for several models on one cluster; this asks about one")
    load, limits = load_figures(file), file.targets
    return replace(
        _asked_of(file.serving[0], cluster), lengths=load.lengths, requests_per_second=load.requests_per_second,
        ttft_seconds=limits.ttft_seconds or math.inf, tpot_seconds=limits.tpot_seconds or math.inf,
        e2e_seconds=limits.e2e_seconds or math.inf,
    )  # fmt: skip


def question_among(file: ServingFile, table: ServedTable) -> ServingQuestion:
    """The question of one model of a job on all of its clusters, without load and targets."""
    first, *others = rooms_of(file)
    return replace(
        _asked_of(table, first.cluster), dollars_per_device_hour=first.dollars_per_device_hour, others=tuple(others),
        cluster_name=first.name,
    )  # fmt: skip


def rooms_of(file: ServingFile) -> tuple[Room, ...]:
    """The job's clusters."""
    return tuple(
        Room(catalog.cluster(one.cluster, one.devices), one.dollars_per_device_hour, one.cluster)
        for one in file.job.rooms
    )


def _asked_of(table: ServedTable, cluster: Cluster) -> ServingQuestion:
    return ServingQuestion(
        served_model(table), cluster, catalog.engine(table.engine), Lengths(1.0, 1.0),
        draft_tokens=table.draft_tokens, acceptance_fraction=table.acceptance_fraction,
        draft=draft_of(table), eager=table.eager,
    )  # fmt: skip


def space_of(table: ServedTable, question: ServingQuestion, usual: ServingSpace | None = None) -> ServingSpace:
    """Choices of the fields that the table leaves open; `usual` ones where there is no reason for others."""
    stated = table.model_fields_set
    peaks = {name for room in question.rooms for name in room.cluster.accelerator.peak_flops_per_second}
    changes: dict[str, Any] = {}
    if "weights" in stated:
        changes["forms"] = ((served_form(table, table.weights), table.expert_weights),)
    else:
        narrow = [NARROW_FORMS[name] for name in NARROW_FORMS if name in peaks]
        changes["forms"] = tuple((form, "") for form in served_forms(table, ["bf16", *narrow]))
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
    return replace(usual or ServingSpace(), **changes)
