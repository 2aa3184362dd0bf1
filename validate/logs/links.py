"""Measured messages -> the curves of a known cluster's links.

Every group of ranks is fitted on the outermost tier it spans, over the curves of the tiers inside. Group sizes that
nobody measured keep the shape of the catalog's curve, moved by what the nearest measured size differs from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.collectives import COLLECTIVES, message_seconds
from profiles import catalog
from profiles.calibration import CollectiveCurve, CollectiveOp, LinkCurves
from profiles.cluster import Cluster, ClusterSpec, Tier
from validate.calibration.fit import Origin, fit_outer_tier, with_outer_curve
from validate.calibration.fit_sizes import joined, with_size_factors
from validate.logs.message import MeasuredMessage


@dataclass(frozen=True, slots=True)
class FittedGroup:
    """What the messages of one collective over one shape of group say of a link."""

    link: str
    op: CollectiveOp
    num_ranks: int
    num_hosts: int
    curve: CollectiveCurve
    """Of this number of members alone."""
    error_before_fraction: float
    """Median |predicted / measured - 1| by the curves that the cluster had."""


def fit_links(
    messages: Sequence[MeasuredMessage], spec: ClusterSpec, origin: Origin
) -> tuple[ClusterSpec, tuple[FittedGroup, ...]]:
    """`spec` with the curves that `messages` give its links, and what each group of them says.

    Raises ValueError where a group has no place on the cluster: more ranks a host than it has, or more hosts.
    """
    groups: dict[tuple[int, int, CollectiveOp], list[MeasuredMessage]] = {}
    for message in messages:
        groups.setdefault((message.num_hosts, message.num_ranks, message.op), []).append(message)
    fitted: list[FittedGroup] = []
    for hosts, ranks, op in sorted(groups):
        fitted.append(_fit_group(groups[hosts, ranks, op], spec, origin))
        spec = _with_group(spec, fitted)
    return spec, tuple(fitted)


def group_cluster(spec: ClusterSpec, num_ranks: int, num_hosts: int) -> Cluster:
    """The part of the cluster that a group fills: `num_ranks` devices on `num_hosts` hosts, equally many on each.

    Raises ValueError where the cluster has no such part.
    """
    host, share = catalog.devices_per_host(spec), num_ranks // num_hosts
    if share > host:
        raise ValueError(f"cluster: {share} ranks ran on one host, but a host of {spec.name} has {host} devices")
    if num_hosts == 1:
        return catalog.expand(spec, num_ranks)
    whole = catalog.expand(spec, num_hosts * host)
    sizes = [max(1, tier.num_devices * share // host) for tier in whole.tiers]
    inside = [1, *sizes[:-1]]
    tiers = tuple(
        tier.model_copy(update={"num_devices": size})
        for tier, size, inner in zip(whole.tiers, sizes, inside, strict=True)
        if size > inner
    )
    return whole.model_copy(update={"num_devices": num_ranks, "tiers": tiers})


def _fit_group(messages: Sequence[MeasuredMessage], spec: ClusterSpec, origin: Origin) -> FittedGroup:
    first = messages[0]
    cluster = group_cluster(spec, first.num_ranks, first.num_hosts)
    num_bytes, seconds = (np.array([getattr(one, name) for one in messages]) for name in ("num_bytes", "seconds"))
    before = message_seconds(first.op, num_bytes, first.num_ranks, 1.0, cluster)
    smooth = fit_outer_tier(first.op, cluster, float(first.num_ranks), num_bytes, seconds, origin)
    inside = cluster.tiers[-2].num_devices if len(cluster.tiers) > 1 else 1
    wire_bytes = COLLECTIVES[first.op].wire_bytes(num_bytes, float(first.num_ranks), float(inside))

    def predict(curve: CollectiveCurve) -> Any:
        return message_seconds(first.op, num_bytes, first.num_ranks, 1.0, with_outer_curve(cluster, first.op, curve))

    curve = with_size_factors(smooth, wire_bytes, seconds, predict)
    return FittedGroup(
        link=cluster.tiers[-1].link,
        op=first.op,
        num_ranks=first.num_ranks,
        num_hosts=first.num_hosts,
        curve=curve,
        error_before_fraction=float(np.median(np.abs(before / seconds - 1.0))),
    )


def _with_group(spec: ClusterSpec, fitted: Sequence[FittedGroup]) -> ClusterSpec:
    """`spec` with the curves of all groups so far on the link of the last one.

    Of two groups that join equally many members of a link, the one with more ranks counts.
    """
    link = fitted[-1].link
    table: dict[CollectiveOp, dict[int, FittedGroup]] = {}
    for group in sorted((one for one in fitted if one.link == link), key=lambda one: one.num_ranks):
        table.setdefault(group.op, {})[group.curve.num_ranks[0]] = group
    tier = _tier_of(link, fitted[-1], spec)
    measured = {op: joined([group.curve for group in groups.values()]) for op, groups in table.items()}
    curves = {op: _with_other_sizes(curve, op, tier) for op, curve in measured.items()}
    origin = fitted[-1].curve.fit
    record = LinkCurves(
        name=f"{link}-measured",
        source=origin.source,
        links=(link,),
        link_class=tier.link_class,
        collectives=curves | _carried_over(curves, tier),
    )
    others = tuple(one for one in spec.curves if link not in one.links)
    return spec.model_copy(update={"curves": (*others, record)})


def _tier_of(link: str, group: FittedGroup, spec: ClusterSpec) -> Tier:
    """The tier of `link` as the catalog has it, without what was measured."""
    bare = spec.model_copy(update={"curves": ()})
    cluster = group_cluster(bare, group.num_ranks, group.num_hosts)
    return next(tier for tier in cluster.tiers if tier.link == link)


def _with_other_sizes(measured: CollectiveCurve, op: CollectiveOp, tier: Tier) -> CollectiveCurve:
    """`measured` with the sizes that only the catalog's curve has, scaled as the nearest measured size is."""
    if op not in tier.curves.collectives:
        return measured
    known = tier.curves.collectives[op]
    gain = known.reduction_gain if tier.in_network_reduction and known.reduction_gain else (1.0,) * len(known.num_ranks)
    listed = {
        "latency_seconds": known.latency_seconds,
        "bus_fraction": tuple(fraction * more for fraction, more in zip(known.bus_fraction, gain, strict=True)),
        "exponent": known.exponent,
    }
    sizes = sorted({*measured.num_ranks, *known.num_ranks})
    nearest = {size: min(measured.num_ranks, key=lambda own: abs(math.log2(own / size))) for size in sizes}
    columns = {
        name: tuple(_scaled(name, listed, known.num_ranks, size, nearest[size], measured) for size in sizes)
        for name in listed
    }
    rows = {
        name: tuple(getattr(measured, name)[measured.num_ranks.index(nearest[size])] for size in sizes)
        for name in ("size_bytes", "size_factor") if measured.size_factor
    }  # fmt: skip
    return measured.model_copy(update={"num_ranks": tuple(sizes), **columns, **rows})


def _scaled(
    name: str,
    listed: dict[str, tuple[float, ...]],
    known: tuple[int, ...],
    size: int,
    nearest: int,
    measured: CollectiveCurve,
) -> float:
    """The catalog's value at `size`, times what was measured over the catalog's at the `nearest` measured size."""
    own = float(getattr(measured, name)[measured.num_ranks.index(nearest)])
    at = np.interp(np.log2([size, nearest]), np.log2(known), listed[name])
    return own * float(at[0] / at[1]) if at[1] > 0.0 else own


def _carried_over(curves: dict[CollectiveOp, CollectiveCurve], tier: Tier) -> dict[CollectiveOp, CollectiveCurve]:
    """The measured all-reduce in place of the catalog's wherever that stood for a collective nobody measured.

    At no more than its share over the most members: only an all-reduce may run as a tree, which two nodes gain by.
    """
    if "all_reduce" not in curves:
        return {}
    reduce = curves["all_reduce"]
    most = reduce.bus_fraction[-1]
    stand_in = reduce.model_copy(
        update={
            "bus_fraction": tuple(min(fraction, most) for fraction in reduce.bus_fraction),
            "is_carried_over": True,
        }
    )
    carried = (op for op, curve in tier.curves.collectives.items() if curve.is_carried_over and op not in curves)
    return dict.fromkeys(carried, stand_in)


__all__ = ["FittedGroup", "fit_links", "group_cluster"]
