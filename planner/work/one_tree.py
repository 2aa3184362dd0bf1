"""Groups of equal nodes as one tree of links, on which the plan needs no placement."""

from dataclasses import replace
from itertools import groupby, pairwise

from planner.order import OrderName
from planner.plan import Plan
from planner.work.lanes import alone_on
from profiles.cluster import Cluster, Tier
from profiles.mixed import MixedCluster, NodeGroup

SIDE_BY_SIDE: OrderName = "tp-cp-pp-dp"
"""The order of ranks whose replicas lie one after the other, each with all of its stages."""


def one_tree(plan: Plan, cluster: MixedCluster, num_microbatches: int) -> tuple[Plan, Cluster] | None:
    """`plan` and the nodes it uses as a homogeneous cluster, or None where that says something else.

    Either one group alone, or all of several groups that are equal in nodes and number: whole replicas side by side, as
    many on each, or one kind of replica with as many neighbouring stages on each group. Every replica runs
    `num_microbatches`. The groups' networks are joined by a tier of their own, which carries what the join does.
    """
    bare = replace(plan, placement=())
    if (alone := alone_on(plan, cluster)) is not None:
        return bare, alone
    groups = cluster.groups
    if not all(_are_alike(first, second) for first, second in pairwise(groups)):
        return None
    uneven = any(lane.num_microbatches not in (0, num_microbatches) for lane in plan.placement)
    if uneven or plan.num_ranks != cluster.num_devices:
        return None
    whole = groups[0].cluster.model_copy(
        update={"name": cluster.name, "num_devices": cluster.num_devices, "tiers": _tiers(groups[0], cluster)}
    )
    if len(plan.placement) == 1:
        runs = [(name, len(list(same))) for name, same in groupby(plan.placement[0].stages)]
        in_line = len(runs) == len(groups) == len(dict(runs)) and len(set(dict(runs).values())) == 1
        return (bare, whole) if in_line else None
    held = dict.fromkeys((group.name for group in groups), 0)
    for lane in plan.placement:
        if len(set(lane.stages)) > 1:
            return None
        held[lane.stages[0]] += lane.num_replicas
    return (replace(bare, order=SIDE_BY_SIDE), whole) if len(set(held.values())) == 1 else None


def _are_alike(first: NodeGroup, second: NodeGroup) -> bool:
    return all(getattr(first.cluster, name) == getattr(second.cluster, name)
               for name in ("accelerator", "num_devices", "tiers"))  # fmt: skip


def _tiers(group: NodeGroup, cluster: MixedCluster) -> tuple[Tier, ...]:
    """The tiers of a group under one that joins all: the join, or else more of the network between nodes."""
    size, tiers = cluster.num_devices, group.cluster.tiers
    if tiers[-1].name != group.port.name:
        tiers = (*tiers, group.port)
    if cluster.join is None:
        return (*tiers[:-1], tiers[-1].model_copy(update={"num_devices": size}))
    join, each = cluster.join.tier, group.cluster.num_devices
    rate = min(join.bytes_per_second, (cluster.join.total_bytes_per_second or float("inf")) / each)
    tiers = tuple(tier for tier in tiers if tier.num_devices <= each)
    return (*tiers, join.model_copy(update={"num_devices": size, "bytes_per_second": rate}))
