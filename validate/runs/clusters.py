"""The cluster of a published run: from the accelerator, the nodes and the interconnect that its source states."""

import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache

from profiles import catalog
from profiles.cluster import Cluster, ClusterSpec, Node
from profiles.units import GIGA

Own = Mapping[str, ClusterSpec]
"""Accelerator -> the cluster of the user's own that rows with it ran on."""

_NETWORK_LINKS = (
    ("omni-path", "omni-path"), ("roce", "roce"), ("edr", "infiniband-edr"), ("ndr", "infiniband-ndr"),
    ("xdr", "infiniband-xdr"), ("infiniband", "infiniband-hdr"), ("efa", "efa"), ("tcpx", "tcpx"),
    ("slingshot", "slingshot"), ("ethernet", "ethernet"),
)  # fmt: skip
"""Words that a network is told by, in this order -> its kind of link."""
_BITS_PER_BYTE = 8.0
_LEAST_NAME_LENGTH = 5
"""Shorter names of nodes ("t4") may stand in a text by chance."""


def own_cluster(name_or_path: str | os.PathLike[str]) -> Own:
    """A cluster, by the accelerator it has; raises ValueError as `catalog.cluster`."""
    return {catalog.cluster(name_or_path).accelerator.name: catalog.cluster_spec(name_or_path)}


def accelerator_name(stated: str) -> str:
    """What a source calls the accelerator, without its remarks in parentheses."""
    return re.sub(r"\s*\(.*\)", "", stated)


@lru_cache(maxsize=1024)
def cluster_of(stated: str, num_devices: int, per_node: int | None, interconnect: str) -> Cluster:
    """`num_devices` of the accelerator `stated`, in nodes of `per_node`, on the network that `interconnect` tells of.

    The nodes are those of a system that accelerator or interconnect name ("Jean Zay", "DGX-H100"), else the
    catalog's of that size, else its usual ones. Raises catalog.UnknownName, or ValueError when the devices do not
    fill whole nodes.
    """
    usual = _usual_node(accelerator_name(stated))
    host = _named_node(usual.accelerator, f"{stated} {interconnect}") or _node_of_size(usual, per_node)
    if per_node and per_node < min(host.num_devices, num_devices):
        cluster = _smaller_nodes(host.name, num_devices, per_node)
    else:
        cluster = catalog.cluster(host.name, num_devices)
    return _with_network(cluster, per_node, interconnect)


def _usual_node(name: str) -> Node:
    """The usual host of the accelerator `name`, if need be without a power or a memory size at its end."""
    for ending in (r"$", r"-\d+W$", r"-\d+GB\b.*$"):
        try:
            return catalog.node(re.sub(ending, "", name))
        except catalog.UnknownName:
            continue
    raise catalog.UnknownName(f"no accelerator is called {name!r}")


@cache
def _nodes() -> tuple[Node, ...]:
    return tuple(catalog.node(name) for name in catalog.names("nodes"))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", text.lower())


def _named_node(accelerator: str, text: str) -> Node | None:
    """The node with `accelerator` that `text` names, by the longest of its names."""
    told = _plain(text)
    found = [
        (len(key), host)
        for host in _nodes()
        if host.accelerator == accelerator
        for key in map(_plain, (host.name, *host.aliases))
        if len(key) >= _LEAST_NAME_LENGTH and key in told and key not in _plain(accelerator)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _node_of_size(usual: Node, per_node: int | None) -> Node:
    """The usual node, or the first of the catalog with as many of its accelerators as stated."""
    if per_node in (None, usual.num_devices):
        return usual
    alike = (host for host in _nodes() if host.accelerator == usual.accelerator and host.num_devices == per_node)
    return next(alike, usual)


def _smaller_nodes(host: str, num_devices: int, per_node: int) -> Cluster:
    """Nodes of `host` with only `per_node` devices each; raises ValueError where they do not fill whole nodes."""
    if num_devices % per_node:
        raise ValueError(f"num_devices: {num_devices} is not a multiple of {per_node}, the devices of a node")
    pair = catalog.cluster(host, 2 * catalog.node(host).num_devices)
    if len(pair.tiers) == 1:
        return catalog.cluster(host, num_devices)
    inner, *_, outer = pair.tiers
    tiers = (
        inner.model_copy(update={"num_devices": per_node}),
        outer.model_copy(update={"num_devices": num_devices}),
    )
    return pair.model_copy(update={"num_devices": num_devices, "tiers": tiers if per_node > 1 else tiers[1:]})


def _with_network(cluster: Cluster, per_node: int | None, interconnect: str) -> Cluster:
    """The cluster with the outermost link and rate that the source states."""
    outer = cluster.tiers[-1]
    if len(cluster.tiers) == 1 or outer.link_class != "network":
        return cluster
    changes: dict[str, object] = {}
    link = next((link for word, link in _NETWORK_LINKS if re.search(rf"\b{word}", interconnect.lower())), None)
    if link is not None:
        changes |= {"link": link, "curves": catalog.link_curves(link, "network")}
    rate = _stated_rate(interconnect, per_node or cluster.devices_per_node, link)
    if rate is not None:
        changes["bytes_per_second"] = rate
    return cluster.model_copy(update={"tiers": (*cluster.tiers[:-1], outer.model_copy(update=changes))})


def _stated_rate(interconnect: str, per_node: int, link: str | None) -> float | None:
    """Bytes per second and device of "800 Gb/s", "8x400Gb/s" or "4x Omni-Path links" a node, or "400 Gb/s per GPU"."""
    if found := re.search(r"(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*Gb/s", interconnect):
        return int(found.group(1)) * float(found.group(2)) * GIGA / _BITS_PER_BYTE / per_node
    if found := re.search(r"(\d+(?:\.\d+)?)\s*Gb/s", interconnect):
        share = 1 if re.search(r"per GPU", interconnect, re.IGNORECASE) else per_node
        return float(found.group(1)) * GIGA / _BITS_PER_BYTE / share
    if link is not None and (found := re.search(r"(\d+)x [\w-]+ links", interconnect)):
        each = catalog.link(link).bytes_per_second
        return int(found.group(1)) * each / per_node if each else None
    return None
