"""A torus: devices pass on what is not for them, one axis after the other."""

import numpy as np

from simulator.network.wiring import NO_LINK, Ints, Links, Order, Wiring, packed, wiring


@wiring("torus")
def torus(order: Order) -> Wiring:
    """Two links a device and axis; a closed axis wraps around, an open one ends [scaling-book, "TPU networking"].

    A device's rate is shared out over two links a closed axis and one an open one: what it is worth in collectives,
    which `profiles.cluster.link_share` counts so. Routes go along the first axis,
    then the next (dimension order), the shorter way around; where both are equally long, even places go forwards.
    """
    axes, wraps = order.axes or (order.num_devices,), order.wraps or (True,) * max(len(order.axes), 1)
    assert int(np.prod(axes)) == order.num_devices, (axes, order.num_devices)
    strides = [int(np.prod(axes[index + 1 :])) for index in range(len(axes))]
    devices = np.arange(order.num_devices)
    num_links = sum(1 + (closed and size > 2) for size, closed in zip(axes, wraps, strict=True) if size > 1)
    parts = [Links.alike(devices[:0], devices[:0], order.bytes_per_second, order.latency_seconds)]
    number = np.full((len(axes), 2, order.num_devices), NO_LINK)
    count = 0
    for axis, (size, stride, closed) in enumerate(zip(axes, strides, wraps, strict=True)):
        place = devices // stride % size
        for way, step in enumerate((1, -1)):
            inside = (place + step >= 0) & (place + step < size)
            there = inside | (closed and size > 2)
            if size == 1:
                continue
            source = devices[there]
            target = source + ((place[there] + step) % size - place[there]) * stride
            number[axis, way, source] = count + np.arange(len(source))
            count += len(source)
            parts.append(Links.alike(source, target, order.bytes_per_second / num_links, order.latency_seconds))

    def route(source: Ints, target: Ints, keys: Ints) -> Ints:
        found, at = [], source.copy()
        for axis, (size, stride, closed) in enumerate(zip(axes, strides, wraps, strict=True)):
            ahead = target // stride % size - at // stride % size
            if closed and size > 2:
                ahead = _shorter_way(ahead % size, size, at // stride % size)
            for _ in range(int(np.abs(ahead).max(initial=0))):
                moves = ahead != 0
                way = (ahead < 0).astype(np.int64)
                place = at // stride % size
                found.append(np.where(moves, number[axis, way, at], NO_LINK))
                at = at + np.where(moves, ((place + np.sign(ahead)) % size - place) * stride, 0)
                ahead = ahead - np.sign(ahead)
        return packed(np.stack(found, axis=1) if found else np.empty((len(source), 0), dtype=np.int64))

    return Wiring(order.num_devices, (), Links.joined(parts), route, axes=axes, along=number)


def _shorter_way(ahead: Ints, size: int, place: Ints) -> Ints:
    """Steps along a ring of `size`, negative where the way back is shorter, or as short and `place` is odd."""
    back = (2 * ahead > size) | ((2 * ahead == size) & (place % 2 == 1))
    return np.where(back, ahead - size, ahead)
