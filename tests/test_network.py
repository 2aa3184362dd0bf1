"""Every wiring, and clusters as networks: routes that arrive by the shortest way, with the rates their tiers state."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import catalog
from profiles.cluster import Cluster
from profiles.fabric import Fabric
from simulator.network.build import Network, build_network
from simulator.network.draw import draw_network
from simulator.network.wiring import NO_LINK, WIRINGS, Level, Order, Wiring, hashed
from tests.cli import meshwise

RATE = 8.0
LEVELS = (Level("leaf", 4), Level("spine", 12, 2.0), Level("core", 24, 3.0))

RAIL_LEVELS = (Level("leaf", 2), *LEVELS[1:])


def fabric(wiring: str = "fat-tree", **fields: int | float) -> Fabric:
    return Fabric(name="test", source="a test", wiring=wiring, **fields)


ORDERS = {
    "star": Order("nvlink", 7, RATE),
    "full-mesh": Order("mesh", 6, RATE),
    "torus": Order("ici", 4 * 5 * 2, RATE, axes=(4, 5, 2), wraps=(True, False, True)),
    "fat-tree": Order("net", 24, RATE, levels=LEVELS, fabric=fabric(num_planes=3)),
    "rail-optimised": Order("net", 24, RATE, levels=RAIL_LEVELS, devices_per_node=2, fabric=fabric("rail-optimised")),
    "dragonfly": Order("net", 30, RATE, fabric=fabric("dragonfly", devices_per_leaf=2, routers_per_group=3)),
}
wirings = pytest.mark.parametrize("name", sorted(WIRINGS))


def test_every_wiring_is_tried():
    assert set(ORDERS) == set(WIRINGS)


def graph_of(made: Wiring, routers_per_group: int) -> nx.DiGraph:
    """One edge a link, all alike but those between groups of a dragonfly, which are the last to be taken."""
    group = (np.arange(made.num_devices, made.num_devices + len(made.switches)) - made.num_devices) // routers_per_group
    graph = nx.DiGraph()
    for source, target in zip(made.links.source.tolist(), made.links.target.tolist(), strict=True):
        ends = [group[node - made.num_devices] for node in (source, target) if node >= made.num_devices]
        is_far = routers_per_group > 1 and len(set(ends)) == 2
        assert not graph.has_edge(source, target)
        graph.add_edge(source, target, length=100 if is_far else 1)
    return graph


def every_pair(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(~np.eye(size, dtype=bool))


@wirings
def test_every_route_is_a_shortest_path(name: str):
    made = WIRINGS[name](ORDERS[name])
    wired = ORDERS[name].fabric
    graph = graph_of(made, wired.routers_per_group if wired else 1)
    source, target = every_pair(made.num_devices)
    lengths = dict(nx.all_pairs_dijkstra_path_length(graph, weight="length"))
    for key in (0, 1, 12345):
        routes = made.route(source, target, source * 1000 + target + key)
        for start, end, row in zip(source.tolist(), target.tolist(), routes, strict=True):
            hops = row[row != NO_LINK]
            nodes = [*made.links.source[hops].tolist(), end]
            assert nodes[0] == start
            assert made.links.target[hops].tolist() == nodes[1:]
            assert nx.path_weight(graph, nodes, "length") == lengths[start][end]
            assert (row[len(hops) :] == NO_LINK).all()


@wirings
def test_links_lead_both_ways_at_one_rate(name: str):
    links = WIRINGS[name](ORDERS[name]).links
    rate_of = dict(zip(zip(links.source.tolist(), links.target.tolist(), strict=True), links.bytes_per_second,
                       strict=True))  # fmt: skip
    assert all(rate_of[b, a] == rate for (a, b), rate in rate_of.items())


@wirings
def test_no_device_has_more_than_its_rate(name: str):
    made = WIRINGS[name](replace(ORDERS[name], wraps=(True,) * len(ORDERS[name].axes)))
    sent = np.bincount(made.links.source, made.links.bytes_per_second)[: made.num_devices]
    assert (sent <= RATE * (1 + 1e-12)).all()
    assert sent.max() == pytest.approx(RATE)


@wirings
def test_the_same_key_takes_the_same_route(name: str):
    made = WIRINGS[name](ORDERS[name])
    source, target = every_pair(made.num_devices)
    first, second = (made.route(source, target, np.full(len(source), 7)) for _ in range(2))
    assert (first == second).all()


@given(st.integers(2, 64), st.integers(0, 2**31))
def test_hashes_spread_flows_evenly(num_choices: int, start: int):
    counts = np.bincount(hashed(np.arange(start, start + 6400), 3, num_choices), minlength=num_choices)
    expected = 6400 / num_choices
    assert np.abs(counts - expected).max() < 6.0 * np.sqrt(expected)


def test_a_tree_carries_what_its_levels_state():
    links, size = WIRINGS["fat-tree"](ORDERS["fat-tree"]).links, 24
    leaves = size + np.arange(6)
    above = np.isin(links.source, leaves) & (links.target >= leaves[-1])
    assert np.bincount(links.source[above] - size, links.bytes_per_second[above]) == pytest.approx([4 * RATE / 2] * 6)


CLUSTERS: dict[str, tuple[str, int, Fabric | None]] = {
    "one node": ("dgx-h100", 8, None),
    "fat tree": ("dgx-h100", 64, None),
    "rails": ("dgx-h100", 512, fabric("rail-optimised", devices_per_leaf=32)),
    "dragonfly": ("frontier", 64, fabric("dragonfly", devices_per_leaf=4, routers_per_group=4)),
    "racks": ("gb200-nvl72", 144, None),
    "tapered": ("h100-oversubscribed", 1024, fabric(devices_per_leaf=16, num_planes=4)),
    "torus": ("tpu-v5p", 128, None),
    "slices": ("tpu-v5p-slices", 1024, None),
    "mesh": ("mi325x", 32, None),
}


def test_every_wiring_is_one_of_a_cluster(monkeypatch: pytest.MonkeyPatch):
    """So that what tests of networks demand is met by a wiring that is new."""
    built = set()
    for kind, build in WIRINGS.items():
        monkeypatch.setitem(WIRINGS, kind, lambda order, kind=kind, build=build: built.add(kind) or build(order))
    for name in CLUSTERS:
        network.__wrapped__(name)
    assert built == set(WIRINGS)


@cache
def network(name: str, seed: int = 0) -> tuple[Cluster, Network]:
    cluster_name, size, wired = CLUSTERS[name]
    cluster = catalog.cluster(cluster_name, size)
    return cluster, build_network(cluster, wired, seed=seed)


@pytest.mark.parametrize("name", CLUSTERS)
def test_messages_arrive_over_the_innermost_tier_that_joins_them(name: str):
    cluster, net = network(name)
    source, target = np.random.default_rng(0).integers(0, cluster.num_devices, (2, 300))
    for start, end, row in zip(source.tolist(), target.tolist(), net.routes(source, target), strict=True):
        hops = row[row != NO_LINK]
        nodes = [start, *net.links.target[hops].tolist()]
        assert net.links.source[hops].tolist() == nodes[:-1]
        assert nodes[-1] == end
        joining = next(index for index, part in enumerate(net.parts)
                       if start // part.num_devices == end // part.num_devices)  # fmt: skip
        assert start == end or net.part_of[hops].max() == joining


def test_rails_are_reached_over_the_links_of_the_node():
    _, net = network("rails")
    (route,) = net.routes(np.array([0]), np.array([8 + 3]))
    names = [net.link_name(link) for link in route[route != NO_LINK]]
    assert names == ["rank0:nvlink0", "nvlink0:rank3", "rank3:infiniband-leaf3", "infiniband-leaf3:rank11"]


def test_a_failed_link_is_gone_around_and_the_last_one_missed():
    _, net = network("tapered")
    (link,) = net.link("rank0:unit-leaf0")
    around = net.without([link])
    (route,) = around.routes(np.array([0]), np.array([200]))
    assert link not in route
    assert net.links.target[route[route != NO_LINK]][-1] == 200
    cut = around.without([*net.link("rank0:nvlink0")])
    with pytest.raises(ValueError, match="no path is left from rank0 to rank200"):
        cut.routes(np.array([0]), np.array([200]))


def test_seeds_choose_other_planes():
    source, target = np.arange(100), np.arange(100) + 300
    routes = [network("tapered", seed)[1].routes(source, target) for seed in (1, 2)]
    assert (routes[0] != routes[1]).any()


@pytest.mark.parametrize("name", ["rank0", "rank0:rank1", "rank0=nobody", "a:b:c"])
def test_links_are_called_by_their_ends(name: str):
    with pytest.raises(ValueError, match=f"link {name}"):
        network("fat tree")[1].link(name)


def test_a_slow_link_keeps_a_fraction_of_its_rate():
    _, net = network("fat tree")
    both = net.link("rank3=infiniband-leaf0")
    slow = net.slowed(both, 0.25)
    assert slow.links.bytes_per_second[list(both)] == pytest.approx(0.25 * net.links.bytes_per_second[list(both)])
    with pytest.raises(ValueError, match="slow_link"):
        net.slowed(both, 0.0)


def test_a_fabric_needs_a_network_to_wire():
    with pytest.raises(ValueError, match="fabric: test wires nodes"):
        build_network(catalog.cluster("dgx-h100", 8), fabric())


@settings(max_examples=15)
@given(st.sampled_from(sorted(CLUSTERS)))
def test_networks_are_drawn(name: str):
    cluster, net = network(name)
    axes = draw_network(net).axes[0]
    assert f"{cluster.num_devices:,} devices" in axes.get_title(loc="left")
    assert len(axes.get_legend().get_texts()) == sum(len(part.tiers) for part in net.parts)


def test_the_catalog_draws_clusters(tmp_path: Path):
    picture = tmp_path / "net.png"
    shown = ["profiles", "show", "dgx-h100", "--devices", "64", "--fabric", "rail", "--plot", str(picture)]
    assert f"wrote {picture}" in meshwise(*shown).out.replace("\n", "")
    assert picture.stat().st_size > 5000
    assert "exists already" in meshwise(*shown).err
    assert "--plot" in meshwise("profiles", "show", "dgx-h100", "--devices", "64").err
