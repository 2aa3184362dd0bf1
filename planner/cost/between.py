"""Messages that leave a group of nodes: between stages on two groups, and sums over replicas on several.

Inside a group a message crosses the group's own tiers; between groups the ports of their nodes, the slower of them, and
the link that joins the groups where they are not on one fabric.
"""

from collections.abc import Mapping

import numpy as np

from planner.cost.collectives import tiered_seconds
from planner.plan import Plan
from planner.work.ops import Message
from profiles.cluster import Tier
from profiles.mixed import MixedCluster, NodeGroup


def hop_seconds(message: Message, num_senders: int, ends: tuple[NodeGroup, NodeGroup], cluster: MixedCluster) -> float:
    """Seconds of a message from a stage on one group to a stage on another, while `num_senders` send at once.

    The slowest link on the way counts, as within a cluster [Cho 2019, BlueConnect, section 3].
    """
    links = [end.port for end in ends]
    if cluster.join is not None:
        links.append(_shared(cluster, num_senders))
    pair = np.array([2.0])
    return max(float(tiered_seconds(message.collective, message.num_bytes, pair, (link,))) for link in links)


def spanning_seconds(
    message: Message, plan: Plan, replicas: Mapping[str, int], cluster: MixedCluster, num_stages: int
) -> float:
    """Seconds of a message over the replicas of a stage, so many of which lie on each group of nodes.

    In each group it passes the tiers inside the nodes and their ports, then the join, as over nested tiers
    [Cho 2019, BlueConnect, section 3]; the slowest group counts. Over a join of a stated total rate the groups of all
    other ranks of `num_stages` stages send at once.
    """
    members = {name: _members(message.axis, plan, count) for name, count in replicas.items()}
    size = sum(number for number, _ in members.values())
    beyond: list[Tier] = []
    if cluster.join is not None and len(replicas) > 1:
        fewest = min(number for number, _ in members.values())
        groups_at_once = plan.tp * plan.cp * plan.dp / size
        beyond = [_shared(cluster, num_stages * groups_at_once * fewest)]
    seconds = []
    for name, (number, stride) in members.items():
        group = cluster.group(name)
        tiers = _tiers(group, is_alone=len(replicas) == 1)
        within = [min(max(tier.num_devices / stride, 1.0), number) for tier in tiers]
        within[-1] = number if beyond or len(replicas) == 1 else size
        found = tiered_seconds(message.collective, message.num_bytes, np.array([*within, *[size] * len(beyond)]),
                               (*tiers, *beyond))  # fmt: skip
        seconds.append(float(found))
    return max(seconds)


def _members(axis: str, plan: Plan, num_replicas: int) -> tuple[float, float]:
    """(members, stride) of a data-parallel group in a group of nodes with so many of the replicas."""
    if axis.startswith("edp"):
        return plan.tp * plan.cp * num_replicas / (plan.etp * plan.ep), plan.etp * plan.ep
    return plan.cp * num_replicas, plan.tp


def _tiers(group: NodeGroup, *, is_alone: bool) -> tuple[Tier, ...]:
    """The tiers of a group; with its port where it must be left and a single node has none."""
    tiers = group.cluster.tiers
    return tiers if is_alone or tiers[-1].name == group.port.name else (*tiers, group.port)


def _shared(cluster: MixedCluster, num_senders: float) -> Tier:
    """The join as one of `num_senders` devices finds it."""
    assert cluster.join is not None
    tier, total = cluster.join.tier, cluster.join.total_bytes_per_second
    if total is None:
        return tier
    return tier.model_copy(update={"bytes_per_second": min(tier.bytes_per_second, total / max(num_senders, 1.0))})
