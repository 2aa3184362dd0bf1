"""Small clusters of several groups of nodes that tests share."""

from profiles import catalog
from profiles.mixed import JoinSpec, MixedCluster, NodeGroup
from profiles.mixing import built_join


def group(name: str, node: str, num_devices: int) -> NodeGroup:
    """Some devices of a node of the catalogue, or some nodes."""
    return NodeGroup(
        name=name,
        cluster=catalog.cluster(node, num_devices),
        port=catalog.built_tier(catalog.node(node).tiers[-1], num_devices),
    )


def room(h100: int = 16, a100: int = 16) -> MixedCluster:
    """So many H100 and A100 on one fabric."""
    groups = (group("h100", "dgx-h100", h100), group("a100", "dgx-a100", a100))
    return MixedCluster(name="room", source="a test", groups=groups)


def twins(num_devices: int = 32) -> MixedCluster:
    """A cluster of equal nodes, written as two groups of half of them."""
    half = num_devices // 2
    return MixedCluster(
        name="twins", source="a test", groups=(group("one", "dgx-h100", half), group("two", "dgx-h100", half))
    )


def sites(gigabytes_per_second: float, num_devices: int = 16) -> MixedCluster:
    """Two rooms of as many H100 each, and a line between them."""
    join = built_join(JoinSpec.model_validate({
        "link": "ethernet", "total_gb_per_second": gigabytes_per_second, "latency_us": 500.0
    }), 2 * num_devices)  # fmt: skip
    groups = (group("north", "dgx-h100", num_devices), group("south", "dgx-h100", num_devices))
    return MixedCluster(name="sites", source="a test", groups=groups, join=join)
