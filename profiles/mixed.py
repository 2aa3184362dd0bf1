"""Clusters of several groups of nodes: other accelerators in each, or the same at two sites.

Within a group everything is alike, so that a group is a `Cluster` of its own. Groups reach each other over the
outermost links of their nodes, and over the link that joins the sites if there is one.
"""

from pydantic import Field, model_validator

from profiles.cluster import Cluster, NumDevices, Tier
from profiles.record import NonNegative, Positive, Record, Sourced

GROUP_NAME = r"^[A-Za-z][A-Za-z0-9_.-]*$"


class GroupSpec(Record):
    """One `[[groups]]` table of a file: a node of the catalog, repeated."""

    node: str = Field(min_length=1)
    num_nodes: NumDevices
    name: str | None = Field(default=None, pattern=GROUP_NAME)
    """What placements call it; the node's name where there is none."""


class JoinSpec(Record):
    """The `[join]` table of a file: a link between groups that are not on one fabric."""

    link: str = Field(min_length=1)
    bytes_per_second: Positive | None = None
    """One direction, per device; without it as much as the nodes' own links carry."""
    total_bytes_per_second: Positive | None = None
    """One direction, of all that cross at once: the capacity of a line between two sites."""
    latency_seconds: NonNegative | None = None

    @model_validator(mode="after")
    def _has_a_rate(self) -> "JoinSpec":
        if self.bytes_per_second is None and self.total_bytes_per_second is None:
            raise ValueError("give gb_per_second (of a device), total_gb_per_second (of the whole link), or both")
        return self


class MixedSpec(Sourced):
    """A cluster of several groups as a file writes it. Without `join` their networks are one fabric."""

    groups: tuple[GroupSpec, ...] = Field(min_length=1)
    join: JoinSpec | None = None
    aliases: tuple[str, ...] = ()


class NodeGroup(Record):
    """Nodes of one kind."""

    name: str = Field(pattern=GROUP_NAME)
    cluster: Cluster
    port: Tier
    """The outermost links of its nodes, over which it reaches other groups; also of a group of a single node."""


class Join(Record):
    """The link between groups."""

    tier: Tier
    total_bytes_per_second: Positive | None = None
    """One direction; what crosses at once shares it."""


class MixedCluster(Sourced):
    """Groups of nodes, in the order of the file. `join` is None where their networks are one fabric."""

    groups: tuple[NodeGroup, ...] = Field(min_length=1)
    join: Join | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> "MixedCluster":
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"groups: two have the same name among {', '.join(names)}; give each a name of its own")
        return self

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(group.cluster.num_devices for group in self.groups)

    def group(self, name: str) -> NodeGroup:
        """The group called `name`; raises ValueError for an unknown one."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise ValueError(f"placement: {self.name} has no group {name!r}; its groups are {known}")


AnyCluster = Cluster | MixedCluster


def groups_of(cluster: AnyCluster) -> tuple[tuple[str, Cluster], ...]:
    """(name, nodes that are alike) of every group; a cluster of one kind of nodes is a group of its own."""
    if isinstance(cluster, Cluster):
        return ((cluster.name, cluster),)
    return tuple((group.name, group.cluster) for group in cluster.groups)
