"""Many accelerators and the nested tiers of links between them.

A `Node` file describes one host and the links inside and outside it; a cluster is that node repeated. Tiers
are written inner first: NVLink in the node, then the network between nodes, then perhaps a slower spine.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from profiles.accelerator import Accelerator
from profiles.calibration import KernelCurves, LinkCurves
from profiles.record import Count, NonNegative, Positive, Record, Sourced

LinkClass = Literal["scale_up", "pcie", "network", "host"]
Topology = Literal["switch", "full-mesh", "hybrid-mesh", "torus", "ring", "pcie", "fat-tree", "bus"]
MAX_DEVICES = 10_000_000
"""More than anyone has; a larger number is a slip of the pen."""
NumDevices = Annotated[int, Field(ge=1, le=MAX_DEVICES)]
Oversubscription = Field(default=1.0, ge=1.0, allow_inf_nan=False)


class Link(Sourced):
    """A kind of link, e.g. "nvlink-4". What a calibrated curve does not say is taken from here."""

    link_class: LinkClass
    latency_seconds: NonNegative
    """Of one step of a collective, beyond what the curves that stand for this link contain: 0 where the curves
    were measured on it or on its like, more for a slower protocol."""
    bytes_per_second: Positive | None = None
    """One direction, per device; used where a tier names no rate. None: it differs from node to node."""
    aliases: tuple[str, ...] = ()


class TierSpec(Record):
    """A tier as a file writes it: what is left out comes from the link's record and its curves."""

    name: str = Field(min_length=1)
    link: str = Field(min_length=1)
    link_class: LinkClass | None = None
    topology: Topology
    num_devices: NumDevices | None = None
    """The most devices that these links join; None, on the outermost tier only: any number."""
    bytes_per_second: Positive | None = None
    latency_seconds: NonNegative | None = None
    oversubscription: float = Oversubscription
    in_network_reduction: bool = False
    num_dimensions: Annotated[int, Field(ge=1, le=6)] | None = None
    """Of a torus."""
    wrap_length: Count | None = None
    """An axis of a torus closes to a ring when its length is a multiple of this."""
    curves: LinkCurves | None = None

    @model_validator(mode="after")
    def _torus_is_whole(self) -> "TierSpec":
        is_torus = self.topology == "torus"
        if is_torus != (self.num_dimensions is not None) or is_torus != (self.wrap_length is not None):
            raise ValueError("num_dimensions and wrap_length describe a torus: a torus needs both, others neither")
        return self


def _check_nesting(tiers: Sequence[TierSpec]) -> None:
    """Raise ValueError unless each tier is larger than the one inside and only the last is without a size."""
    sizes = [tier.num_devices for tier in tiers]
    for inner, outer in pairwise(sizes):
        if inner is None:
            raise ValueError("tiers: only the last tier may leave out num_devices")
        if outer is not None and (outer <= inner or outer % inner):
            raise ValueError(f"tiers: each must hold a multiple of the devices of the one inside, got {sizes}")


class Node(Sourced):
    """One host: its accelerators, the links among them, and the network to other hosts."""

    provider: str
    accelerator: str
    num_devices: NumDevices
    """Accelerators of one host."""
    tiers: tuple[TierSpec, ...] = Field(min_length=1)
    """Inner first. A scale-up tier may be larger than one host (NVL72, a TPU pod)."""
    host_memory_bytes: Positive | None = None
    power_watts: Positive | None = None
    """Of the whole host under load."""
    aliases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _tiers_nest(self) -> "Node":
        _check_nesting(self.tiers)
        return self


class ClusterSpec(Sourced):
    """A cluster as a file writes it: a node repeated, or everything inline (what `meshwise calibrate` writes)."""

    node: str | None = None
    """Name of a node; its tiers come first and `tiers` go around them."""
    num_nodes: NumDevices | None = None
    accelerator: str | Accelerator | None = None
    num_devices: NumDevices | None = None
    tiers: tuple[TierSpec, ...] = ()
    kernels: KernelCurves | None = None
    curves: tuple[LinkCurves, ...] = ()
    """Measured here: each serves the tiers whose link it lists; what it lacks comes from the catalog."""
    host_memory_bytes: Positive | None = None
    aliases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_form(self) -> "ClusterSpec":
        if (self.node is None) == (self.accelerator is None):
            raise ValueError("give either node (a name) or accelerator (a name or a table)")
        if self.node is None and self.num_nodes is not None:
            raise ValueError("num_nodes counts nodes, but no node is named; give num_devices")
        if self.num_nodes is not None and self.num_devices is not None:
            raise ValueError("give num_nodes or num_devices, not both")
        if self.node is None and not self.tiers:
            raise ValueError("tiers: at least one is needed, a link that reaches every device")
        _check_nesting(self.tiers)
        return self


class Tier(Record):
    """One level of the network: groups of `num_devices` devices that reach each other over the same links.

    `bytes_per_second` is one direction, per device, and is each device's fair share when all of them talk.
    """

    name: str = Field(min_length=1)
    link: str = Field(min_length=1)
    """Name of the link kind, e.g. "nvlink-4", "infiniband-ndr"; calibrations are found by it."""
    link_class: LinkClass
    topology: Topology
    num_devices: NumDevices
    bytes_per_second: Positive
    latency_seconds: NonNegative = 0.0
    """Of each step of a collective, on top of the latency that `curves` contain."""
    oversubscription: float = Oversubscription
    in_network_reduction: bool = False
    num_dimensions: Count | None = None
    wrap_length: Count | None = None
    curves: LinkCurves

    @property
    def usable_bytes_per_second(self) -> float:
        """Bytes per second a device gets when every device of the tier talks through its top."""
        return self.bytes_per_second / self.oversubscription


class Cluster(Sourced):
    """A homogeneous cluster: `num_devices` of one accelerator under nested tiers, inner first.

    The last tier reaches every device. Rank r sits at position r: a group of `size` ranks at stride `stride`
    spans the tiers that `planner.cost.collectives.group_sizes` computes.
    """

    accelerator: Accelerator
    num_devices: NumDevices
    tiers: tuple[Tier, ...] = Field(min_length=1)
    kernels: KernelCurves
    host_memory_bytes: Positive | None = None
    """Of one host, shared by its devices."""

    @model_validator(mode="after")
    def _tiers_nest(self) -> "Cluster":
        sizes = [tier.num_devices for tier in self.tiers]
        for inner, outer in pairwise(sizes):
            if outer % inner or outer <= inner:
                raise ValueError(f"tiers: each must hold a multiple of the devices of the one inside, got {sizes}")
        if sizes[-1] != self.num_devices:
            raise ValueError(
                f"tiers: the outermost reaches {sizes[-1]} devices but the cluster has {self.num_devices}; "
                "add a tier with a link between the groups"
            )
        return self

    @property
    def devices_per_node(self) -> int:
        """Devices of the innermost tier."""
        return self.tiers[0].num_devices


def tier_sizes(limits: Sequence[int | None], num_devices: int, per_node: int) -> list[int]:
    """How many devices each tier holds when `num_devices` are spread evenly; 0 for a tier that is not needed.

    `limits` are the most devices of each tier, inner first, None for no limit. Hosts are used whole, and every
    group of a tier holds the same number, so 128 devices on racks of 72 in trays of 4 lie as two times 64.

    Raises ValueError when `num_devices` is not a whole number of hosts, or more than the outermost tier joins.
    """
    if num_devices > per_node and num_devices % per_node:
        below = num_devices - num_devices % per_node
        raise ValueError(
            f"{num_devices} devices are not a whole number of nodes of {per_node}; "
            f"the nearest are {below} and {below + per_node}"
        )
    if limits[-1] is not None and num_devices > limits[-1]:
        raise ValueError(f"the links of the outermost tier join at most {limits[-1]} devices, got {num_devices}")
    sizes = [num_devices]
    for limit in reversed(limits[:-1]):
        assert limit is not None
        sizes.insert(0, _even_share(sizes[0], limit, per_node))
    outside = [1, *sizes[:-1]]
    used = [size if size > inner else 0 for size, inner in zip(sizes, outside, strict=True)]
    return used if any(used) else [1] + [0] * (len(sizes) - 1)


def _even_share(num_devices: int, limit: int, per_node: int) -> int:
    """The largest group of at most `limit` that divides `num_devices`, in whole hosts once it exceeds one."""
    unit = per_node if limit >= per_node and num_devices % per_node == 0 else 1
    return max(size * unit for size in _divisors(num_devices // unit) if size * unit <= limit)


def _divisors(number: int) -> list[int]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})


def link_share(tier: TierSpec, num_devices: int) -> float:
    """Share of a device's link rate that is left when only `num_devices` of a tier's devices are used.

    Full mesh: links to absent peers are idle. Torus: with axes as equal as they can be, an axis of length one
    uses no link, an open axis half of its rate (a line instead of a ring), a closed one all of it
    [scaling-book, "TPU networking": wrap-around halves the time of collectives]. Elsewhere all of it.
    """
    if num_devices == 1:
        return 1.0  # nothing is sent
    if tier.topology == "full-mesh" and tier.num_devices is not None:
        return min((num_devices - 1) / (tier.num_devices - 1), 1.0)
    if tier.topology == "torus":
        assert tier.num_dimensions is not None
        assert tier.wrap_length is not None
        axes = torus_axes(num_devices, tier.num_dimensions)
        shares = [0.0 if axis == 1 else 1.0 if axis % tier.wrap_length == 0 else 0.5 for axis in axes]
        return sum(shares) / len(shares)
    return 1.0


@cache
def torus_axes(num_devices: int, num_dimensions: int) -> tuple[int, ...]:
    """The `num_dimensions` lengths whose product is `num_devices` and whose longest is as short as can be.

    They fall in length. Ranks lie along the last axis first, so that small groups close to rings on short axes.
    """
    if num_dimensions == 1:
        return (num_devices,)
    shapes = ((size, *torus_axes(num_devices // size, num_dimensions - 1)) for size in _divisors(num_devices))
    return min(tuple(sorted(axes, reverse=True)) for axes in shapes)
