"""Which recomputation a plan can ask for: modules the model has, and no more layers than a chunk holds."""

from typing import Any

import numpy as np

from planner.choose.rule import Rule
from planner.plan import Plan, PlanGrid
from planner.recompute import Module, Recompute
from planner.work.layers import num_blocks
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.workload import TrainingJob


def modules_of(model: object) -> Module:
    """The modules of a model that selective recomputation can run again."""
    if not isinstance(model, TransformerShape):
        return Module.NOTHING
    found = Module.CORE_ATTN | Module.LAYERNORM
    if not all(model.is_sparse_layer) or model.num_encoder_layers:
        found |= Module.MLP
    if model.moe:
        found |= Module.MOE | Module.MOE_ACT
        found |= Module.SHARED_EXPERTS if model.moe.shared_width else Module.NOTHING
    return found | (Module.MLA_UP_PROJ if model.mla else Module.NOTHING)


def _modules_hold(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    available = int(modules_of(job.model))
    inside = (plans.recompute_modules > 0) & (np.bitwise_and(plans.recompute_modules, ~available) == 0)
    untouched = plans.recompute_modules == Module.CORE_ATTN
    return np.select(
        [plans.recompute == Recompute.SELECTIVE, plans.recompute == Recompute.OPERATORS],
        [inside, untouched & (available > 0)],
        untouched,
    )


def _modules_sentence(plan: Plan, job: TrainingJob, cluster: Cluster) -> str:
    available = modules_of(job.model)
    if not available:
        return f"recompute={plan.recompute.name.lower()}: {job.model.name} is a plain list of layers; use none or full"
    if plan.recompute != Recompute.SELECTIVE:
        return (
            f"recompute_modules={plan.recompute_modules.words} with recompute={plan.recompute.name.lower()}: "
            "modules are chosen by recompute=selective alone"
        )
    return (
        f"recompute_modules={plan.recompute_modules.words}: {job.model.name} has {available.words}; "
        "name at least one of them"
    )


RECOMPUTE_RULES = (
    Rule("recomputed modules are the model's", _modules_hold, _modules_sentence),
    Rule(
        "recomputed layers are a chunk's",
        lambda p, job, cluster: (
            (p.recompute_layers == 0)
            | ((p.recompute == Recompute.FULL) & (p.num_recomputed_layers <= num_blocks(job.model)))
        ),
        lambda p, job, cluster: (
            f"recompute_layers={p.recompute_layers} needs recompute=full (got {p.recompute.name.lower()}) and at most "
            f"the {num_blocks(job.model) // (p.pp * p.vp)} layers a chunk of {job.model.name} holds at pp={p.pp} "
            f"vp={p.vp}"
        ),
    ),
)
"""Rules of `planner.choose.legality`."""
