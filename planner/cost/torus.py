"""What a group gets of the links of a torus: those along the axes that it fills, shared with groups in its gaps.

Ranks lie along the last axis first. An axis that a group fills to its closed end is a ring used both ways, any other a
line [scaling-book, jax-ml/scaling-book "TPU networking": time of a collective over an axis and over several].
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from profiles.cluster import Tier, torus_axes

Numbers = Any
"""A float or an array."""


def is_torus(tier: Tier) -> bool:
    """Whether devices of `tier` pass on what is for others."""
    return tier.topology in ("torus", "ring")


MembersInside = Callable[[Numbers], Numbers]
"""Number of neighbouring devices -> members of a group among them."""


def torus_share(collective: str, tier: Tier, members_inside: MembersInside, distance: Numbers) -> Numbers:
    """Share of the rate of all links of a device that `collective` gets on the torus `tier`.

    `distance` lies between two members, in devices: the groups that fill the gaps do the same at the same time.
    Transfers between pairs go one way; what all members send each other crosses every axis, so that the fullest counts.
    """
    axes = torus_axes(tier.num_devices, tier.num_dimensions or 1)
    wrap = tier.wrap_length or 1
    whole, inner, each = 0.0, 1.0, []
    for length in reversed(axes):
        closed = length % wrap == 0 and length > 2
        whole += (length > 1) * (1.0 + closed)
        members = members_inside(inner * length) / members_inside(inner)
        spacing = np.clip(distance / inner, 1.0, length)
        rings = closed & (members * spacing > length - 0.5)
        ways = np.where(rings & (collective != "send_recv"), 2.0, 1.0) / spacing
        if collective == "all_to_all":
            ways = ways / _crossings(np.maximum(members, 2.0), members_inside(tier.num_devices))
        each.append(np.where(members > 1.0, ways, np.inf if collective == "all_to_all" else 0.0))
        inner *= length
    used = np.min(each, axis=0) if collective == "all_to_all" else np.sum(each, axis=0)
    return np.where((used > 0.0) & np.isfinite(used), used / max(whole, 1.0), 1.0)


def _crossings(members: Numbers, size: Numbers) -> Numbers:
    """Links of a ring of `members` that a byte to another of `size` crosses; of a line, bytes over its middle.

    m**2 / 4 of the pairs, of all m**2 with those that lie on other axes.
    """
    return np.floor(members**2 / 4.0) / members * size / np.maximum(size - 1.0, 1.0)
