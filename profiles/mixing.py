"""A file with [[groups]] -> the cluster of several groups of nodes that it stands for."""

from pathlib import Path

from pydantic import ValidationError

from profiles import catalog
from profiles.cluster import Cluster, Tier, TierSpec
from profiles.files import BadFile, explain, read_table, validated
from profiles.mixed import AnyCluster, GroupSpec, Join, JoinSpec, MixedCluster, MixedSpec, NodeGroup


def mixed_cluster(path: Path, num_devices: int | None = None) -> AnyCluster:
    """The cluster that the file describes; groups of the same nodes on one fabric are one group.

    A single group that is left is a cluster like any other. Raises BadFile with the field at fault, and ValueError
    for a number of devices that is not that of all groups together.
    """
    spec = validated(MixedSpec, read_table(path), path)
    try:
        made = built(spec)
        if num_devices not in (None, made.num_devices):
            raise ValueError(
                f"devices: the groups have {made.num_devices} together, got {num_devices}; leave it out (plans may "
                "leave devices idle) or change num_nodes"
            )
        return made
    except ValueError as error:
        sentence = explain(error) if isinstance(error, ValidationError) else str(error)
        raise BadFile(f"{path}: {sentence}") from None


def built(spec: MixedSpec) -> AnyCluster:
    """The cluster that a specification stands for; raises ValueError for an unknown node, or two groups of one name."""
    about = spec.model_dump(include={"name", "source", "unverified", "notes"})
    groups = tuple(_group(one) for one in _merged(spec))
    if len(groups) == 1:
        return groups[0].cluster.model_copy(update=about)
    whole = sum(group.cluster.num_devices for group in groups)
    return MixedCluster(**about, groups=groups, join=built_join(spec.join, whole) if spec.join else None)


def _merged(spec: MixedSpec) -> list[GroupSpec]:
    """The groups; unnamed ones of the same node are one where nothing lies between them."""
    if spec.join is not None:
        return list(spec.groups)
    found: dict[tuple[str, str | None], GroupSpec] = {}
    for one in spec.groups:
        key = (catalog.node(one.node).name, one.name)
        before = found.get(key)
        number = one.num_nodes + (before.num_nodes if before else 0)
        found[key] = one.model_copy(update={"num_nodes": number})
    return list(found.values())


def _group(spec: GroupSpec) -> NodeGroup:
    host = catalog.node(spec.node)
    whole: Cluster = catalog.cluster(host.name, spec.num_nodes * host.num_devices)
    port = catalog.built_tier(host.tiers[-1], whole.num_devices)
    return NodeGroup(name=spec.name or host.name, cluster=whole, port=port)


def built_join(spec: JoinSpec, num_devices: int) -> Join:
    """The link that a file describes, between groups of so many devices together."""
    rate = spec.bytes_per_second or spec.total_bytes_per_second
    tier: Tier = catalog.built_tier(
        TierSpec(name="join", link=spec.link, link_class="network", topology="fat-tree", bytes_per_second=rate,
                 latency_seconds=spec.latency_seconds), num_devices,
    )  # fmt: skip
    return Join(tier=tier, total_bytes_per_second=spec.total_bytes_per_second)
