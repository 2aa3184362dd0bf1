"""Seconds of collectives and transfers over nested tiers of links, with the fitted curves of each link kind.

A collective is one function here, registered by its name: the bytes that a device moves over the links of one
tier. Sizes follow nccl-tests (see `planner.work.ops.Message`). Everything broadcasts over arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.cost.roofline import smooth_max
from planner.cost.torus import is_torus, torus_share
from planner.work.routing import Routing
from profiles.calibration import CollectiveCurve
from profiles.cluster import Cluster, Tier

Numbers = Any
"""A float or an array."""
NO_GAP = np.inf
"""Ranks of a block that has no gap behind it."""
Floats = NDArray[np.float64]

WireBytes = Callable[[Numbers, Numbers, Numbers], Numbers]
"""(num_bytes, size, inner) -> bytes a device sends over a tier.

The group has `size` members, of which `inner` sit together below each port of that tier.
"""


@dataclass(frozen=True, slots=True)
class Collective:
    """One pattern of communication."""

    name: str
    wire_bytes: WireBytes
    visits_every_tier: bool
    """Whether a message passes every tier its group spans, so that latencies add; else the slowest counts."""
    rounds: float
    """Times the data goes around (or up and down a tree over) the group."""
    reduces_and_spreads: bool
    """Whether switches that reduce can do it: each device sends its bytes up once and gets them back once."""
    has_trees: bool
    """Whether libraries run it over trees too, whose latency grows with the logarithm of the nodes."""


COLLECTIVES: dict[str, Collective] = {}
"""The registry, by name."""


def collective(
    name: str,
    *,
    visits_every_tier: bool = True,
    rounds: float = 1.0,
    reduces_and_spreads: bool = False,
    has_trees: bool = True,
) -> Callable[[WireBytes], WireBytes]:
    """Register the decorated function as the wire bytes of the collective `name`."""

    def register(wire_bytes: WireBytes) -> WireBytes:
        assert name not in COLLECTIVES, f"collective {name} is registered twice"
        COLLECTIVES[name] = Collective(name, wire_bytes, visits_every_tier, rounds, reduces_and_spreads, has_trees)
        return wire_bytes

    return register


@collective("all_reduce", rounds=2.0, reduces_and_spreads=True)
def _all_reduce(num_bytes: Numbers, size: Numbers, inner: Numbers) -> Numbers:
    """2 (n - 1) / n * S / inner [Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002, eq. 1].

    Bytes cross into a node once, spread over the ports of its `inner` members: one ring for each.
    """
    return 2.0 * (size - 1.0) / size * num_bytes / inner


@collective("all_gather", has_trees=False)
@collective("reduce_scatter", has_trees=False)
def _half_all_reduce(num_bytes: Numbers, size: Numbers, inner: Numbers) -> Numbers:
    """(n - 1) / n * S / inner: half an all-reduce [Patarasuk and Yuan 2009]."""
    return (size - 1.0) / size * num_bytes / inner


@collective("broadcast", has_trees=False)
@collective("reduce", has_trees=False)
def _one_way(num_bytes: Numbers, size: Numbers, inner: Numbers) -> Numbers:
    """S / inner along a chain of all members, in pieces that follow each other.

    [NCCL tests, doc/PERFORMANCE.md: their bus bandwidth is S / t]
    """
    return num_bytes * np.greater(size, 1.0) / inner


@collective("all_to_all")
def _all_to_all(num_bytes: Numbers, size: Numbers, inner: Numbers) -> Numbers:
    """(n - inner) / n * S: of a device's n equal parts, those for members beyond its port.

    [Thakur 2005, doi:10.1177/1094342005051521, section 4.2]
    """
    return (size - inner) / size * num_bytes


@collective("send_recv", visits_every_tier=False)
def _send_recv(num_bytes: Numbers, size: Numbers, inner: Numbers) -> Numbers:
    """S, over every tier that separates some pair of neighbours."""
    return num_bytes * np.ones_like(size * inner, dtype=np.float64)


def group_sizes(size: Numbers, stride: Numbers, cluster: Cluster) -> Floats:
    """How many sub-groups each tier joins, of a group of `size` ranks at distance `stride`.

    The shape is (num_tiers, ...). Members within tier t are clip(devices_t / stride, 1, size), and its entry
    is their ratio to the members within the tier inside, so that the product over tiers is `size`. A stride
    that does not divide a tier gives the mean over ranks.
    """
    return _ratios(members_within(size, stride, cluster))


def message_seconds(
    collective: str,
    num_bytes: Numbers,
    size: Numbers,
    stride: Numbers,
    cluster: Cluster,
    library: str = "",
    routing: Routing | None = None,
    block: Numbers = NO_GAP,
    skip: Numbers = 1.0,
) -> Floats:
    """Seconds of one `collective` of `num_bytes` within a group of `size` ranks at distance `stride`.

    `block` and `skip` say where the ranks lie that `stride` counts (`members_within`). `library` and `routing`:
    see `tiered_seconds`, whose formula this is [Cho 2019, BlueConnect, section 3].
    """
    size, stride = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(stride, np.float64))
    members = members_within(size, stride, cluster, block, skip)
    share = _share_of_inner_links(collective, size, stride, cluster, block, skip)
    return tiered_seconds(collective, num_bytes, members, cluster.tiers, library, routing, share)


def tiered_seconds(
    collective: str,
    num_bytes: Numbers,
    num_members: Floats,
    tiers: Sequence[Tier],
    library: str = "",
    routing: Routing | None = None,
    inner_share: Numbers = 1.0,
) -> Floats:
    """Seconds of one `collective` of `num_bytes` in a group with `num_members` within each tier, (tiers, ...).

    `inner_share` is what the group gets of the rate of the innermost tier (`planner.cost.torus`).

    `library` names an implementation other than NCCL's (`profiles.calibration.LinkCurves.libraries`); where a link has
    no curve of it, NCCL's serves. `routing`: see `planner.work.ops.Message`.

    Each tier t that the group spans has a latency L_t and a wire time W_t; alone it takes T_t = (L**p +
    W**p)**(1/p). Tiers work as one pipeline: t = max_t(T_t - L_t) + sum_t L_t, so the slowest tier's transfer
    hides the others' and latencies add (of a single transfer, only the largest counts). The split by tier
    follows [Cho 2019, BlueConnect, section 3]. 0 for a group of one. Rows with a routing cross to each port once and
    are forwarded behind it [Zhao 2025, DeepEP, github.com/deepseek-ai/DeepEP].
    """
    pattern = COLLECTIVES[collective]
    num_bytes, size = np.broadcast_arrays(np.asarray(num_bytes, dtype=np.float64), num_members[-1])
    transfer, latency = np.zeros(size.shape), np.zeros(size.shape)
    inner = np.ones(size.shape)
    for tier, joined, within in zip(tiers, _ratios(num_members), num_members, strict=True):
        spans = joined > 1.0
        if spans.any():
            wire_bytes = np.where(spans, pattern.wire_bytes(num_bytes, size, inner), 0.0)
            if routing is not None:
                wire_bytes = wire_bytes * routing.ports_reached(size / inner) / routing.num_choices
            if tier is tiers[0]:
                wire_bytes = wire_bytes / inner_share
            tier_latency, tier_transfer = _tier_seconds(pattern, wire_bytes, joined, tier, library)
            tier_latency = np.where(spans, tier_latency, 0.0)
            add = np.add if pattern.visits_every_tier else np.maximum
            latency = add(latency, tier_latency)
            transfer = np.maximum(transfer, np.where(spans, tier_transfer, 0.0))
        inner = within
    return transfer + latency


def reached_fractions(
    collective: str, num_members: Floats, tiers: Sequence[Tier], routing: Routing | None = None, library: str = ""
) -> list[float]:
    """Share of the rate of the links it uses that `collective` reaches in each tier, as `tiered_seconds` has it.

    `num_members` (tiers,) within each tier. Of rows that a port gets once (`routing`) as if every copy were sent.
    """
    pattern, fractions, inner = COLLECTIVES[collective], [], 1.0
    for tier, joined, within in zip(tiers, _ratios(num_members), num_members, strict=True):
        whole = tier.model_copy(update={"topology": "switch"}) if tier.topology == "full-mesh" else tier
        curve = tier.curves.curve(collective, library)
        fraction = float(_bus_fraction(pattern, curve, np.maximum(joined, 2.0), whole))
        if routing is not None and joined > 1.0:
            fraction *= routing.num_choices / float(routing.ports_reached(num_members[-1] / inner))
        fractions.append(fraction)
        inner = float(within)
    return fractions


def members_within(
    size: Numbers, stride: Numbers, cluster: Cluster, block: Numbers = NO_GAP, skip: Numbers = 1.0
) -> Floats:
    """Members of a group inside each tier, inner first; shape (num_tiers, ...).

    The group takes every `stride`-th of some ranks, which lie in blocks of `block` neighbours, one in `skip` blocks:
    of a stage's ranks a tier of D devices holds D, or block * D / (block * skip) once that is more than a block.
    """
    within = _members_inside([tier.num_devices for tier in cluster.tiers], size, stride, block, skip)
    within[-1] = size
    return within


def _members_inside(
    num_devices: Sequence[float], size: Numbers, stride: Numbers, block: Numbers, skip: Numbers
) -> Floats:
    """Members of a group inside units of each of `num_devices` neighbours, (units, ...)."""
    size, stride = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(stride, np.float64))
    devices = np.array(num_devices, dtype=np.float64)
    devices = devices.reshape(-1, *([1] * np.broadcast(size, block, skip).ndim))
    reached = np.maximum(np.minimum(devices, block), devices / skip)
    return np.asarray(np.clip(reached / stride, 1.0, size))


def _share_of_inner_links(
    collective: str, size: Floats, stride: Floats, cluster: Cluster, block: Numbers, skip: Numbers
) -> Numbers:
    """What the group gets of the links of the innermost tier: less than all of them on a torus."""
    inner = cluster.tiers[0]
    if not is_torus(inner):
        return 1.0
    distance = np.where(stride < block, stride, stride * skip)
    return torus_share(
        collective, inner, lambda count: _members_inside((count,), size, stride, block, skip)[0], distance
    )


def _ratios(members: Floats) -> Floats:
    inside = np.concatenate([np.ones_like(members[:1]), members[:-1]])
    return members / inside


def _tier_seconds(
    pattern: Collective, wire_bytes: Floats, joined: Floats, tier: Tier, library: str
) -> tuple[Floats, Floats]:
    """Latency, and what the transfer adds to it, of `wire_bytes` a device over one tier.

    A pattern without trees goes around a ring of nodes, n - 1 times the latency between two [Thakur 2005,
    doi:10.1177/1094342005051521, section 4.1]; NCCL gathers so wherever a node has several ranks. A curve that was
    carried over from a pattern with trees has only the latency between two nodes for it.
    """
    curve = tier.curves.curve(pattern.name, library)
    exponent = _by_ranks(curve, curve.exponent, joined)
    rate = _bus_fraction(pattern, curve, joined, tier) * tier.usable_bytes_per_second
    steps = pattern.rounds * np.ceil(np.log2(joined))
    beyond = 0.0 if tier.curves.measures(pattern.name, library) else tier.latency_seconds
    latency = _latency(curve, joined) + steps * beyond
    if not pattern.has_trees and tier.link_class == "network" and curve.is_carried_over:
        latency = np.maximum(latency, curve.latency_seconds[0] * (joined - 1.0))
    seconds = smooth_max(latency, wire_bytes / rate, exponent)
    if curve.size_factor:
        seconds = seconds * size_factor(curve, wire_bytes, joined)
        latency = np.minimum(latency, seconds)
    return latency, seconds - latency


def size_factor(curve: CollectiveCurve, wire_bytes: Floats, num_ranks: Floats) -> Floats:
    """Measured time over the formula's: linear in the logarithms of bytes and ranks, constant beyond the ends.

    Between the sizes that nccl-tests or a calibration measured, as LogGP keeps a cost by size [Alexandrov 1997,
    doi:10.1006/jpdc.1997.1346]; 1 where the curve has none.
    """
    place = np.interp(np.log2(num_ranks), np.log2(curve.num_ranks), np.arange(len(curve.num_ranks)))
    log_factor = np.zeros(np.shape(wire_bytes))
    for row, (knots, factors) in enumerate(zip(curve.size_bytes, curve.size_factor, strict=True)):
        weight = np.clip(1.0 - np.abs(place - row), 0.0, 1.0)
        at = np.log(np.maximum(wire_bytes, knots[0]))
        log_factor = log_factor + weight * np.interp(at, np.log(knots), np.log(factors))
    return np.exp(log_factor)


def _bus_fraction(pattern: Collective, curve: CollectiveCurve, joined: Floats, tier: Tier) -> Floats:
    """Share of a device's link rate that the wire bytes of `pattern` reach between `joined` members.

    A full mesh has one link a pair, so that `joined` members use (joined - 1) of (devices - 1). A curve that
    was measured with reduction in the switches serves a tier without it at the rate of an all-gather, a plain
    ring; the other way round, it gains what was measured, well below the 2 (n - 1) / n that a device saves by
    sending each byte once [Graham 2016, SHArP, doi:10.1109/COMHPC.2016.006].
    """
    fraction = _by_ranks(curve, curve.bus_fraction, joined)
    if pattern.reduces_and_spreads and tier.in_network_reduction and curve.reduction_gain:
        fraction = fraction * _by_ranks(curve, curve.reduction_gain, joined)
    if pattern.reduces_and_spreads and curve.in_network_reduction and not tier.in_network_reduction:
        ring = tier.curves.curve("all_gather")
        fraction = np.minimum(fraction, _by_ranks(ring, ring.bus_fraction, joined))
    if tier.topology == "full-mesh":
        partners = np.maximum(joined - 1.0, 1.0) if pattern.visits_every_tier else 1.0
        fraction = fraction * np.minimum(partners / max(tier.num_devices - 1.0, 1.0), 1.0)
    return fraction


def _by_ranks(curve: CollectiveCurve, values: tuple[float, ...], joined: Floats) -> Floats:
    """A column of the curve's table at `joined` ranks: linear in their log2, constant beyond its ends."""
    return np.interp(np.log2(joined), np.log2(curve.num_ranks), values)


def _latency(curve: CollectiveCurve, joined: Floats) -> Floats:
    """Latency by group size: interpolated in log2 of the ranks, continued along the last slope in ranks."""
    ranks, seconds = curve.num_ranks, curve.latency_seconds
    slope = max((seconds[-1] - seconds[-2]) / (ranks[-1] - ranks[-2]), 0.0) if len(ranks) > 1 else 0.0
    return _by_ranks(curve, seconds, joined) + slope * np.maximum(joined - ranks[-1], 0.0)
