"""What a message puts on every link: the bytes of its algorithm on the routes of the network.

A group's members are taken tier by tier, as libraries do: members of equal place in the groups of the tier inside go
around a ring (over meshes to each other, over tori both ways around), each with its share of the bytes
[Cho 2019, BlueConnect, section 3].
"""

import numpy as np
from numpy.typing import NDArray

from planner.cost.collectives import COLLECTIVES
from profiles.cluster import Cluster
from simulator.network.build import Network, Part
from simulator.network.wiring import NO_LINK, Ints

Floats = NDArray[np.float64]
MOST_PARTNERS = 64
"""Of an all-to-all: members whose messages are routed one by one; of more, as many evenly spaced ones stand for all."""


def group_loads(network: Network, cluster: Cluster, collective: str, groups: Ints) -> Floats:
    """Bytes on each link, for each byte of `collective`, when all `groups` (groups, members) run it, (links,)."""
    load = np.zeros(len(network.links))
    size = groups.shape[1]
    if collective == "send_recv":
        _add(network, load, groups.ravel(), np.roll(groups, -1, axis=1).ravel(), 1.0)
        return load
    if collective == "all_to_all":
        shifts = np.unique(np.linspace(1, size - 1, min(size - 1, MOST_PARTNERS)).astype(np.int64))
        share = (size - 1) / size / len(shifts)
        for shift in shifts:
            _add(network, load, groups.ravel(), np.roll(groups, -shift, axis=1).ravel(), share)
        return load
    inner = 1
    for part in network.parts:
        outer = _members_within(groups, part.num_devices)
        if outer > inner:
            _add_ring(network, cluster, load, part, collective, groups.reshape(-1, outer // inner, inner), inner)
        inner = outer
    return load


def transfer_loads(network: Network, source: Ints, target: Ints) -> Floats:
    """Bytes on each link when every source sends one byte to its target."""
    load = np.zeros(len(network.links))
    _add(network, load, source, target, 1.0)
    return load


def _members_within(groups: Ints, num_devices: int) -> int:
    """Members in each unit of `num_devices`, if all groups lie in units alike; else only the whole group counts."""
    unit = groups // num_devices
    size = groups.shape[1]
    together = int((unit == unit[:, :1]).sum(axis=1).min())
    if together in (1, size) or size % together:
        return size if together == size else 1
    regular = unit.reshape(len(groups), -1, together)
    return together if (regular == regular[:, :, :1]).all() else 1


def _add_ring(
    network: Network, cluster: Cluster, load: Floats, part: Part, collective: str, members: Ints, inner: int
) -> None:
    """One tier of a collective: `members` (rings, units, places), a ring over the units for every place."""
    pattern = COLLECTIVES[collective]
    units = members.shape[1]
    rings = np.swapaxes(members, 1, 2).reshape(-1, units)
    each = pattern.rounds * (units - 1) / units / inner
    reduces = all(cluster.tiers[tier].in_network_reduction for tier in part.tiers)
    if part.wiring.axes:
        _add_along_axes(load, part, rings, each)
    elif not part.wiring.switches:
        for shift in range(1, units):
            _add(network, load, rings.ravel(), np.roll(rings, -shift, axis=1).ravel(), each / (units - 1))
    else:
        if pattern.reduces_and_spreads and reduces:
            each = 1.0 / inner
        _add(network, load, rings.ravel(), np.roll(rings, -1, axis=1).ravel(), each)


def _add_along_axes(load: Floats, part: Part, rings: Ints, each: float) -> None:
    """A collective on a torus: a ring along every axis that a group fills to its closed end, both ways around, a line
    along any other that it reaches into; each carries what it has time for.

    Groups that lie between each other's members load the same links.
    """
    axes, along = part.wiring.axes, part.wiring.along
    unit, place = np.divmod(rings, part.num_devices)
    coordinates = np.array(np.unravel_index(place, axes))  # (axes, rings, units)
    ways, found = {}, {}
    for axis, at in enumerate(coordinates):
        members = len(np.unique(at[0]))
        if members > 1:
            spacing = (at[0].max() - at[0].min()) / (members - 1)
            closed = bool(along[axis, 0].min() != NO_LINK and members * spacing > axes[axis] - 0.5)
            ways[axis] = (1.0 + closed) / spacing
            found[axis] = 1.0 / (1.0 + closed), _links_along(part, axis, coordinates, unit, closed=closed)
    for axis, (share, links) in found.items():
        load += each * ways[axis] / sum(ways.values()) * share * np.bincount(links, minlength=len(load))


def _links_along(part: Part, axis: int, coordinates: Ints, unit: Ints, *, closed: bool) -> Ints:
    """The links between the members of each group along `axis`, or all around it, both ways."""
    at = coordinates[axis]
    first = at == at.min(axis=1, keepdims=True)
    steps = np.arange(part.wiring.axes[axis] if closed else int((at.max(axis=1) - at.min(axis=1)).max()) + 1)
    line = np.repeat(coordinates[:, first][:, :, None], len(steps), axis=2)
    line[axis] += -line[axis] + steps if closed else steps
    devices = np.ravel_multi_index(tuple(line), part.wiring.axes, mode="clip")
    ahead, back = (devices, devices) if closed else (devices[:, :-1], devices[:, 1:])
    links = np.concatenate([part.wiring.along[axis, 0, ahead], part.wiring.along[axis, 1, back]], axis=1)
    numbered = links + part.first_link + unit[first][:, None] * len(part.wiring.links)
    return np.asarray(numbered[links != NO_LINK])


def _add(network: Network, load: Floats, source: Ints, target: Ints, num_bytes: float) -> None:
    hops = network.routes(source, target)
    used = hops[hops != NO_LINK]
    load += num_bytes * np.bincount(used, minlength=len(load))
