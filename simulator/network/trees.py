"""Trees of switches: fat trees, plain or with a leaf for each rail, tapered at any level; also two sites over a WAN."""

import numpy as np

from simulator.network.wiring import NO_LINK, Ints, Links, Order, Wiring, hashed, packed, wiring


@wiring("fat-tree")
def fat_tree(order: Order) -> Wiring:
    """A leaf serves neighbouring devices, whole nodes where they fit [Al-Fares 2008, doi:10.1145/1402958.1402967].

    Every level above joins the switches below by `num_planes` parallel switches that share what all devices below a
    switch send, over the oversubscription of the level. A flow keeps to the plane its hash chooses.
    """
    leaf = np.arange(order.num_devices) // order.levels[0].num_devices
    return _tree(order, leaf)


@wiring("rail-optimised")
def rail_optimised(order: Order) -> Wiring:
    """A leaf serves the devices of one place in the nodes of a unit, so that rings along rails never leave it.

    [NVIDIA 2022, DGX SuperPOD reference architecture, "Compute fabric"]
    """
    rails, unit = order.devices_per_node, order.levels[0].num_devices * order.devices_per_node
    devices = np.arange(order.num_devices)
    return _tree(order, devices // unit * rails + devices % rails)


def _tree(order: Order, leaf: Ints) -> Wiring:
    """Switches by level over devices whose leaves are given; a switch of level j lies under that of its devices."""
    size, planes = order.num_devices, order.fabric.num_planes if order.fabric else 1
    above = [np.arange(size) // level.num_devices for level in order.levels[1:]]
    switch_of = [leaf, *above]
    counts = [int(column.max()) + 1 for column in switch_of]
    copies = [1] + [planes] * len(above)
    first_switch = size + np.cumsum([0, *(count * copy for count, copy in zip(counts, copies, strict=True))])
    devices = np.arange(size)
    up = Links.alike(devices, first_switch[0] + leaf, order.bytes_per_second, order.latency_seconds)
    down = Links.alike(first_switch[0] + leaf, devices, order.bytes_per_second, order.latency_seconds)
    parts, first_link = [Links.joined([up, down])], [0]
    for level in range(1, len(switch_of)):
        first_link.append(sum(map(len, parts)))
        parts.append(_uplinks(order, switch_of, first_switch, copies, level))
    starts, switch_counts = tuple(first_link), tuple(counts)

    def route(source: Ints, target: Ints, keys: Ints) -> Ints:
        up, down = [source], [size + target]
        plane_below = np.zeros_like(source)
        for level in range(1, len(switch_of)):
            apart = switch_of[level - 1][source] != switch_of[level - 1][target]
            plane = hashed(keys, level, copies[level])
            width = copies[level - 1] * copies[level]
            lane = plane_below * copies[level] + plane
            num_up = switch_counts[level - 1] * width
            here = starts[level] + switch_of[level - 1][source] * width + lane
            there = starts[level] + num_up + switch_of[level - 1][target] * width + lane
            up.append(np.where(apart, here, NO_LINK))
            down.append(np.where(apart, there, NO_LINK))
            plane_below = plane
        return packed(np.stack([*up, *down[::-1]], axis=1))

    names = tuple(
        f"{order.levels[level].name}{index}" + (f".{plane}" if copies[level] > 1 else "")
        for level, count in enumerate(counts)
        for index in range(count)
        for plane in range(copies[level])
    )
    heights = tuple(level + 1 for level, count in enumerate(counts) for _ in range(count * copies[level]))
    return Wiring(size, names, Links.joined(parts), route, heights)


def _uplinks(order: Order, switch_of: list[Ints], first_switch: Ints, copies: list[int], level: int) -> Links:
    """Links between the switches of `level - 1` and those above them: every copy of one to every copy of the other."""
    below, above = switch_of[level - 1], switch_of[level]
    num_below = int(below.max()) + 1
    members = np.bincount(below, minlength=num_below)
    parent = np.zeros(num_below, dtype=np.int64)
    parent[below] = above
    lanes = copies[level - 1] * copies[level]
    source = first_switch[level - 1] + np.repeat(np.arange(num_below * copies[level - 1]), copies[level])
    target = first_switch[level] + np.repeat(parent * copies[level], lanes) + np.tile(
        np.arange(copies[level]), num_below * copies[level - 1]
    )  # fmt: skip
    rate = np.repeat(members, lanes) * order.bytes_per_second / order.levels[level].oversubscription / lanes
    latency = np.full(len(source), order.levels[level].latency_seconds)
    return Links.joined([Links(source, target, rate, latency), Links(target, source, rate, latency)])
