"""The smooth roofline that kernel prices share, and the rates it is drawn with."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles.cluster import Cluster

Seconds = Any
"""A float, or an array of one value a plan."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The datasheet rates that a curve's fractions multiply."""

    flops_per_second: float
    memory_bytes_per_second: float

    @classmethod
    def of(cls, cluster: Cluster, dtype: str, *, attention: bool = False) -> "Rates":
        """The rates of the cluster's accelerator at `dtype`, as far as a training step sustains them."""
        accelerator = cluster.accelerator
        peak = accelerator.flops_per_second(dtype) * cluster.kernels.sustained_fraction(dtype, attention=attention)
        return cls(peak, accelerator.memory_bytes_per_second)


def smooth_max(first: Seconds, second: Seconds, exponent: Any) -> Seconds:
    """(first**p + second**p)**(1/p), written so that neither power under- nor overflows.

    For p -> infinity it is the maximum, for p = 1 the sum; below 1 it exceeds the sum where both are alike.
    """
    larger = np.maximum(first, second)
    ratio = np.minimum(first, second) / np.maximum(larger, np.finfo(float).tiny)
    return larger * (1.0 + ratio**exponent) ** (1.0 / exponent)
