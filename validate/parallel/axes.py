"""The axes that ranks are grouped by, in numbers: no torch here."""

from planner.cost.groups import group_of
from planner.plan import Plan

AXES = {
    "tp": "tp", "cp_a2a": "cp", "cp_ring": "cp", "ep": "ep", "pp": "pp",
    "dp": "dp", "dp-shard": "dp", "dp-replicate": "dp", "edp": "dp", "edp-shard": "dp", "edp-replicate": "dp",
}  # fmt: skip
"""An axis of the planner's messages -> the part of a breakdown that they belong to."""


def ranks_of(axis: str, plan: Plan) -> tuple[int, int]:
    """(size, stride) of the groups on `axis`.

    A pp group holds all stages, not only the two of a message; "edp-replicate" joins the ranks that hold the same
    shard of the same experts.
    """
    if axis == "edp-replicate":
        whole, shards = group_of("edp", plan), group_of("edp-shard", plan)
        return int(whole.size // shards.size), int(shards.size * shards.stride)
    group = group_of(axis, plan)
    return int(plan.pp if axis == "pp" else group.size), int(group.stride)


def first_name(axis: str, plan: Plan) -> str:
    """The first axis that joins the same ranks as `axis` does under `plan`: messages cannot be told apart by more."""
    found = ranks_of(axis, plan)
    return next(name for name in AXES if ranks_of(name, plan) == found)
