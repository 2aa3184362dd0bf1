"""Many accelerators and the nested tiers of links between them."""

from typing import Literal

from pydantic import Field, model_validator

from profiles.accelerator import Accelerator
from profiles.calibration import KernelCurves, LinkCurves
from profiles.record import Count, NonNegative, Positive, Record, Sourced


class Tier(Record):
    """One level of the network: groups of `num_devices` devices that reach each other over the same links.

    `bytes_per_second` is one direction, per device, and is each device's fair share when all of them talk.
    """

    name: str = Field(min_length=1)
    link: str = Field(min_length=1)
    """Name of the link kind, e.g. "nvlink-4", "infiniband-ndr"; calibrations are found by it."""
    link_class: Literal["scale_up", "pcie", "network", "host"]
    topology: Literal["switch", "full-mesh", "hybrid-mesh", "torus", "ring", "pcie", "fat-tree", "bus"]
    num_devices: Count
    bytes_per_second: Positive
    latency_seconds: NonNegative = 0.0
    oversubscription: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    in_network_reduction: bool = False
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
    num_devices: Count
    tiers: tuple[Tier, ...] = Field(min_length=1)
    kernels: KernelCurves
    host_memory_bytes: Positive | None = None

    @model_validator(mode="after")
    def _tiers_nest(self) -> "Cluster":
        sizes = [tier.num_devices for tier in self.tiers]
        for inner, outer in zip(sizes, sizes[1:], strict=False):
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
