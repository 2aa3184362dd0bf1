"""How the switches between nodes are wired, where a cluster's tiers say only how many devices they join."""

from typing import Literal, Self

from pydantic import model_validator

from profiles.record import Count, Positive, Sourced

WiringName = Literal["fat-tree", "rail-optimised", "dragonfly"]


class Fabric(Sourced):
    """The network outside scale-up domains. Rates are the cluster's; this says what they share."""

    aliases: tuple[str, ...] = ()
    wiring: WiringName = "fat-tree"
    """"fat-tree": a leaf switch serves whole nodes; "rail-optimised": a leaf serves the devices of equal place in many
    nodes, and neighbours forward over their scale-up links to the rail of the receiver; "dragonfly": groups of routers,
    every router linked to all of its group and every group to every other."""
    devices_per_leaf: Count = 32
    """Ports down of a leaf switch, or of a router."""
    num_planes: Count = 1
    """Of trees: parallel paths at each level above the leaves, out of which a flow keeps to one by its hash (ECMP);
    1: packets are spread evenly over all of them."""
    routers_per_group: Count = 1
    """Of a dragonfly."""
    global_fraction: Positive = 1.0
    """Of a dragonfly: bytes per second between groups over those of the devices."""

    @model_validator(mode="after")
    def _fields_fit_the_wiring(self) -> Self:
        if self.wiring == "dragonfly" and self.num_planes > 1:
            raise ValueError("num_planes counts the paths of a tree, and wiring=dragonfly has one between two groups")
        if self.wiring != "dragonfly" and (self.routers_per_group > 1 or self.global_fraction != 1.0):
            raise ValueError(f"routers_per_group and global_fraction describe a dragonfly, not wiring={self.wiring}")
        return self
