"""Which ranks talk to each other: the size of the groups of an axis, and how far apart their members sit.

The ranks of a stage are numbered in the plan's order of tp, cp and dp; its expert mesh numbers the same ranks etp
first, then ep, then what is left of them (edp). Where the order puts axes outside pp, the ranks of a stage lie in
blocks of neighbours, one in every pp blocks.
"""

from typing import Any, NamedTuple

import numpy as np

from planner.cost.collectives import NO_GAP, members_within
from planner.cost.torus import is_torus
from planner.order import ranks_inside
from planner.plan import Plan, PlanGrid
from profiles.cluster import Cluster


class Group(NamedTuple):
    """The ranks of one group; numbers or arrays."""

    size: Any
    stride: Any
    """Between neighbours, counted in ranks of their stage."""
    block: Any = NO_GAP
    """Ranks of a stage that are neighbours."""
    skip: Any = 1
    """Blocks from one of the stage's to its next."""


def group_of(axis: str, plan: Plan | PlanGrid) -> Group:
    """The groups on `axis`.

    Gradients of replicated parameters are reduced over dp and cp together; those of experts ("edp") over what
    etp and ep leave of tp, cp and dp. Shard groups are neighbours within those, and replica groups join ranks
    with equal shards. "cp_a2a" and "cp_ring" are the two levels of cp. A pp message joins two neighbouring stages.
    "dp-shard/8" are the neighbours within a shard group, eight at most.
    """
    if axis == "pp":
        return Group(np.minimum(plan.pp, 2), stage_stride(plan))
    size, stride = _within_stage(axis, plan)
    return Group(size, stride, stage_stride(plan), plan.pp)


def stage_stride(plan: Plan | PlanGrid) -> Any:
    """Ranks from one stage to the next."""
    return ranks_inside(plan, "pp", ("tp", "cp", "dp"))


def _within_stage(axis: str, plan: Plan | PlanGrid) -> tuple[Any, Any]:
    """(size, stride) of the groups of an axis within a stage."""
    name, _, limit = axis.partition("/")
    if limit:
        size, stride = _within_stage(name, plan)
        return np.minimum(size, int(limit)), stride
    tp_stride, cp_stride, dp_stride = (ranks_inside(plan, one, ("tp", "cp", "dp")) for one in ("tp", "cp", "dp"))
    replicas = np.minimum(cp_stride, dp_stride)
    match name:
        case "tp":
            return plan.tp, tp_stride
        case "cp" | "cp_a2a":
            return getattr(plan, name), cp_stride
        case "cp_ring":
            return plan.cp // plan.cp_a2a, cp_stride * plan.cp_a2a
        case "dp":
            return plan.dp * plan.cp, replicas
        case "dp-shard":
            return plan.dp * plan.cp // plan.dp_replicate, replicas
        case "dp-replicate":
            return plan.dp_replicate, replicas * (plan.dp * plan.cp // plan.dp_replicate)
        case "etp":
            return plan.etp, np.ones_like(plan.tp)
        case "ep":
            return plan.ep, plan.etp * 1
        case "edp":
            return plan.tp * plan.cp * plan.dp // (plan.etp * plan.ep), plan.etp * plan.ep
    assert name == "edp-shard", name
    ranks = plan.tp * plan.cp * plan.dp // plan.dp_replicate // (plan.etp * plan.ep)
    return np.maximum(ranks, 1), plan.etp * plan.ep


def axes_within(plan: PlanGrid, cluster: Cluster) -> Any:
    """Ranks of a stage, and members of each axis, within each tier: what prices know of an order, (numbers, plans)."""
    rows = []
    for axis in ("tp", "cp", "dp", "pp", "stage"):
        ranks = plan.tp * plan.cp * plan.dp
        group = group_of(axis, plan) if axis != "stage" else Group(ranks, 1, stage_stride(plan), plan.pp)
        size = plan.pp if axis == "pp" else group.size
        rows.append(members_within(size, group.stride, cluster, group.block, group.skip))
        if is_torus(cluster.tiers[0]):
            rows.append(np.broadcast_to(group.stride, rows[-1].shape[1:])[None])
    return np.round(np.concatenate(rows), 6)
