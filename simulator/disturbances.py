"""What makes ranks unequal: slow hosts, clocks that differ, operating-system noise; every draw from one generator."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Disturbances:
    """How the ranks of a step differ from the calibrated device. All but the defaults slow compute down."""

    slow_hosts: Mapping[int, float] = field(default_factory=dict)
    """Host -> share of its rate that its devices keep."""
    speed_spread_fraction: float = 0.0
    """Standard deviation of the devices' rates over their mean: chips of one kind differ
    [Sinha 2022, Not all GPUs are created equal, doi:10.1109/SC41404.2022.00070]."""
    jitter_fraction: float = 0.0
    """Standard deviation of every action's time over its mean."""
    noise_seconds: float = 0.0
    """How long the operating system takes a rank away ..."""
    noise_period_seconds: float = 0.0
    """... and how far apart, in the mean, such detours are [Hoefler 2010, doi:10.1109/SC.2010.12, section II]."""

    @property
    def is_random(self) -> bool:
        """Whether it needs draws, and devices simulated one by one."""
        return self.speed_spread_fraction > 0.0 or self.jitter_fraction > 0.0 or self.noise_seconds > 0.0

    def slowness(self, num_devices: int, devices_per_host: int, generator: np.random.Generator | None) -> Floats:
        """Time over usual time of every device, (devices,).

        Raises ValueError for a host that does not exist, a share out of range, or a spread without a generator.
        """
        found = np.ones(num_devices)
        num_hosts = -(-num_devices // devices_per_host)
        for host, share in self.slow_hosts.items():
            if not 0 <= host < num_hosts:
                raise ValueError(f"slow_host: {host} does not exist, hosts are numbered 0 to {num_hosts - 1}")
            if not 0.0 < share <= 1.0:
                raise ValueError(f"slow_host: {host} keeps a share above 0 and at most 1 of its rate, got {share:g}")
            found[host * devices_per_host : (host + 1) * devices_per_host] /= share
        if self.speed_spread_fraction > 0.0:
            found *= _needed(generator).lognormal(0.0, self.speed_spread_fraction, num_devices)
        return found

    def disturbed(self, seconds: Floats, generator: np.random.Generator | None) -> Floats:
        """`seconds` of the actions of one rank, (actions,), with jitter and noise."""
        if self.jitter_fraction > 0.0:
            mean = -0.5 * self.jitter_fraction**2
            seconds = seconds * _needed(generator).lognormal(mean, self.jitter_fraction, len(seconds))
        if self.noise_seconds > 0.0:
            detours = _needed(generator).poisson(seconds / self.noise_period_seconds)
            seconds = seconds + self.noise_seconds * detours
        return seconds


def _needed(generator: np.random.Generator | None) -> np.random.Generator:
    if generator is None:
        raise ValueError("seed: unequal ranks need a generator to draw from")
    return generator
