"""What a network is made of: links between nodes of a graph, and the path that each message takes over them.

A wiring joins the devices of one tier. It is registered by its name and met by a contract suite: every route is a
shortest path of its graph, and hashing spreads flows over equal ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiles.fabric import Fabric

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NO_LINK = -1
"""Fills the rows of routes that are shorter than others."""

Route = Callable[[Ints, Ints, Ints], Ints]
"""(sources, targets, keys) -> links in order of travel, shape (pairs, hops), NO_LINK at the end of shorter ones.

`keys` are the hashes of the flows: where several shortest paths exist, the key chooses.
"""


@dataclass(frozen=True, slots=True)
class Links:
    """Directed links, a column a property."""

    source: Ints
    target: Ints
    bytes_per_second: Floats
    latency_seconds: Floats

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def joined(cls, parts: "Sequence[Links]") -> "Links":
        """All links of `parts`, in their order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    @classmethod
    def alike(cls, source: Ints, target: Ints, bytes_per_second: float, latency_seconds: float) -> "Links":
        """Links of one rate and latency."""
        size = len(source)
        return cls(source, target, np.full(size, bytes_per_second), np.full(size, latency_seconds))


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a tree of switches: how many devices lie under each of its switches, and what they share."""

    name: str
    num_devices: int
    oversubscription: float = 1.0
    """Of the links up into it: what the devices below could send over what the links carry."""
    latency_seconds: float = 0.0
    """Of the links up into it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a wiring is built from."""

    name: str
    num_devices: int
    bytes_per_second: float
    """One direction, a device."""
    latency_seconds: float = 0.0
    """Of one link."""
    levels: tuple[Level, ...] = ()
    """Of a tree, inner first; the last joins all devices."""
    devices_per_node: int = 1
    """Devices that share a node: rails are their places in it."""
    axes: tuple[int, ...] = ()
    """Lengths of a torus."""
    wraps: tuple[bool, ...] = ()
    """Whether each axis of a torus is closed to a ring."""
    fabric: Fabric | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """The links of one tier (or of one group of it), and the routes over them."""

    num_devices: int
    """Nodes 0 to num_devices - 1 are devices; switches follow."""
    switches: tuple[str, ...]
    links: Links
    route: Route
    switch_levels: tuple[int, ...] = ()
    """How high above the devices each switch stands, from 1; empty: all at 1."""
    axes: tuple[int, ...] = ()
    """Lengths of a torus, along which its devices lie."""
    along: Ints = field(default_factory=lambda: np.empty((0, 2, 0), dtype=np.int64))
    """Of a torus: the link of each device along each axis, forwards and back, (axes, 2, devices)."""


Builder = Callable[[Order], Wiring]
WIRINGS: dict[str, Builder] = {}
"""The registry, by name."""


def wiring(name: str) -> Callable[[Builder], Builder]:
    """Register the decorated function as the wiring `name`."""

    def register(build: Builder) -> Builder:
        assert name not in WIRINGS, f"wiring {name} is registered twice"
        WIRINGS[name] = build
        return build

    return register


def hashed(keys: Ints, salt: int, num_choices: int) -> Ints:
    """A choice out of `num_choices` for each key, the same on every machine: the finaliser of MurmurHash3.

    [Appleby 2011, MurmurHash3, fmix32]
    """
    mixed = (keys.astype(np.uint64) * np.uint64(0x9E3779B1) + np.uint64(salt)) & np.uint64(0xFFFFFFFF)
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        mixed = ((mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)) & np.uint64(0xFFFFFFFF)
    return ((mixed ^ (mixed >> np.uint64(16))) % np.uint64(num_choices)).astype(np.int64)


def packed(hops: Ints) -> Ints:
    """Rows of links with their gaps moved to the end."""
    order = np.argsort(hops == NO_LINK, axis=1, kind="stable")
    return np.take_along_axis(hops, order, axis=1)
