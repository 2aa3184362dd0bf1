"""What a serving job asks of a search: its question, and the choices it leaves open."""

import math
from dataclasses import replace
from typing import Any

from meshwise.serving.estimating import load_figures
from meshwise.serving.jobfile import ServedTable, ServingFile
from meshwise.serving.modelling import served_form, served_forms, served_model
from planner.choose.serving_replicas import ServingQuestion, ServingSpace
from profiles import catalog
from profiles.cluster import Cluster

NARROW_FORMS = {"fp8": "fp8", "fp4": "nvfp4"}
"""Format the device multiplies -> form of the weights that is offered beside 16 bits."""


def question_of(file: ServingFile, cluster: Cluster) -> ServingQuestion:
    """The question of a job of one model on `cluster`; raises ValueError for several models, a closed loop, or names
    that are not known."""
    if len(file.serving) != 1:
        raise ValueError("serving: a search deploys one model; give each model a file of its own")
    if file.load.concurrency is not None:
        raise ValueError("concurrency: a search needs a rate (requests_per_second or a trace), or none for the highest")
    table, load, limits = file.serving[0], load_figures(file), file.targets
    return ServingQuestion(
        served_model(table), cluster, catalog.engine(table.engine), load.lengths, load.requests_per_second,
        limits.ttft_seconds or math.inf, limits.tpot_seconds or math.inf, limits.e2e_seconds or math.inf,
        table.draft_tokens, table.acceptance_fraction, table.eager,
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
