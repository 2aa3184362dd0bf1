"""Wirings in which devices meet at one switch, or have a link to every other."""

import numpy as np

from simulator.network.wiring import Ints, Links, Order, Wiring, wiring


@wiring("star")
def star(order: Order) -> Wiring:
    """Every device has one link to one switch and one back: an NVSwitch node, an NVL72 rack, a bus."""
    size = order.num_devices
    devices, switch = np.arange(size), np.full(size, size)
    up = Links.alike(devices, switch, order.bytes_per_second, order.latency_seconds)
    down = Links.alike(switch, devices, order.bytes_per_second, order.latency_seconds)

    def route(source: Ints, target: Ints, keys: Ints) -> Ints:
        return np.stack([source, size + target], axis=1)

    return Wiring(size, (order.name,), Links.joined([up, down]), route)


@wiring("full-mesh")
def full_mesh(order: Order) -> Wiring:
    """A link for every ordered pair; a device's rate is shared out over its n - 1 links."""
    size = order.num_devices
    source, target = np.nonzero(~np.eye(size, dtype=bool))
    links = Links.alike(source, target, order.bytes_per_second / max(size - 1, 1), order.latency_seconds)

    def route(source: Ints, target: Ints, keys: Ints) -> Ints:
        return (source * (size - 1) + target - (target > source))[:, None]

    return Wiring(size, (), links, route)
