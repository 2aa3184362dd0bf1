"""A dragonfly: groups of routers, all linked within a group, and every group linked to every other."""

import numpy as np

from simulator.network.wiring import NO_LINK, Ints, Links, Order, Wiring, packed, wiring


@wiring("dragonfly")
def dragonfly(order: Order) -> Wiring:
    """Minimal routes: to the router of the own group that has the link, over it, to the receiver's router.

    [Kim 2008, doi:10.1109/ISCA.2008.19, sections 3 and 4.1]. Devices of one router share its `local` links to the
    others of the group in equal parts; between two groups there is one bundle of links at one router of each, with the
    rate of the devices of a group over the number of other groups, times the taper. A route crosses at most one
    bundle, even where two would make it shorter.
    """
    fabric = order.fabric
    assert fabric is not None
    per_router, routers, size = fabric.devices_per_leaf, fabric.routers_per_group, order.num_devices
    num_groups = -(-size // (per_router * routers))
    router_of = np.arange(size) // per_router
    num_routers = num_groups * routers
    rate, latency = order.bytes_per_second, order.latency_seconds
    ports = Links.alike(np.arange(size), size + router_of, rate, latency)
    back = Links.alike(size + router_of, np.arange(size), rate, latency)
    own, other = np.nonzero(~np.eye(routers, dtype=bool))
    group = np.repeat(np.arange(num_groups), len(own))
    first = size + group * routers
    near = rate * per_router / max(routers - 1, 1)
    local = Links.alike(first + np.tile(own, num_groups), first + np.tile(other, num_groups), near, latency)
    here, there = np.nonzero(~np.eye(num_groups, dtype=bool))
    far = rate * per_router * routers * fabric.global_fraction / max(num_groups - 1, 1)
    ends = [size + side * routers + _gateway(side, away, routers) for side, away in ((here, there), (there, here))]
    bundles = Links.alike(ends[0], ends[1], far, latency)
    starts = np.cumsum([0, size, size, len(local)])

    def local_link(side: Ints, leaving: Ints, arriving: Ints) -> Ints:
        within = leaving * (routers - 1) + arriving - (arriving > leaving)
        return np.where(leaving == arriving, NO_LINK, starts[2] + side * routers * (routers - 1) + within)

    def route(source: Ints, target: Ints, keys: Ints) -> Ints:
        leaving, arriving = router_of[source], router_of[target]
        side, away = leaving // routers, arriving // routers
        is_far = side != away
        gate_out = np.where(is_far, _gateway(side, away, routers), arriving % routers)
        gate_in = np.where(is_far, _gateway(away, side, routers), arriving % routers)
        pair = side * (num_groups - 1) + away - (away > side)
        return packed(np.stack([
            source, local_link(side, leaving % routers, gate_out), np.where(is_far, starts[3] + pair, NO_LINK),
            local_link(away, gate_in, arriving % routers), starts[1] + target,
        ], axis=1))  # fmt: skip

    names = tuple(f"{order.name}-router{index}" for index in range(num_routers))
    return Wiring(size, names, Links.joined([ports, back, local, bundles]), route)


def _gateway(side: Ints, away: Ints, routers: int) -> Ints:
    """The router, within group `side`, that has the links to group `away`: they are dealt out in turn."""
    return (away - (away > side)) % routers
