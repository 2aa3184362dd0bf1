"""Tiers nest, and devices are spread evenly over whole hosts."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from profiles import catalog
from profiles.cluster import Cluster, ClusterSpec, Node, TierSpec, link_share, tier_sizes, torus_axes

SMALL = st.integers(1, 64)


def tier(**changes: object) -> dict[str, object]:
    return {
        "name": "t", "link": "nvlink-4", "topology": "switch", "num_devices": 8, "gb_per_second": 450
    } | changes  # fmt: skip


def outer(**changes: object) -> dict[str, object]:
    return tier(name="net", link="infiniband-ndr", topology="fat-tree", num_devices=None, gb_per_second=50, **changes)


def node(**changes: object) -> Node:
    values = {
        "name": "toy", "source": "a test", "provider": "none", "accelerator": "h100-sxm", "num_devices": 8,
        "tiers": [tier(), outer()],
    }  # fmt: skip
    return Node.model_validate(values | changes)


def test_whole_nodes_fill_the_network() -> None:
    assert tier_sizes([8, None], 64, 8) == [8, 64]
    assert tier_sizes([8, None], 8, 8) == [8, 0]
    assert tier_sizes([8, None], 5, 8) == [5, 0]
    assert tier_sizes([8, None], 1, 8) == [1, 0]


def test_racks_are_filled_evenly_in_whole_trays() -> None:
    assert tier_sizes([72, None], 72, 4) == [72, 0]
    assert tier_sizes([72, None], 144, 4) == [72, 144]
    assert tier_sizes([72, None], 128, 4) == [64, 128]
    assert tier_sizes([72, None], 148, 4) == [4, 148]


def test_bridged_pairs_lie_inside_the_bus() -> None:
    assert tier_sizes([2, 8, None], 32, 8) == [2, 8, 32]
    assert tier_sizes([2, 8, None], 3, 8) == [0, 3, 0]
    assert tier_sizes([2, 8, None], 1, 8) == [1, 0, 0]


@pytest.mark.parametrize(("num_devices", "nearest"), [(9, "8 and 16"), (100, "96 and 104")])
def test_part_of_a_node_beside_whole_ones_is_refused(num_devices: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{num_devices} devices .* nodes of 8; the nearest are {nearest}"):
        tier_sizes([8, None], num_devices, 8)


def test_more_than_the_links_join_is_refused() -> None:
    with pytest.raises(ValueError, match="join at most 256 devices, got 512"):
        tier_sizes([8, 256], 512, 8)


@given(per_node=SMALL, num_nodes=SMALL, factor=SMALL, in_pairs=st.booleans())
def test_sizes_nest_and_reach_every_device(per_node: int, num_nodes: int, factor: int, in_pairs: bool) -> None:
    limits = [2] * (in_pairs and per_node > 2) + [per_node, per_node * factor, None]
    assume(factor > 1)
    num_devices = per_node * num_nodes
    sizes = [size for size in tier_sizes(limits, num_devices, per_node) if size]
    assert sizes[-1] == num_devices
    assert all(wide % narrow == 0 and wide > narrow for narrow, wide in pairwise(sizes))
    if num_nodes > 1:
        assert any(size % per_node == 0 for size in sizes)


@given(num_devices=st.integers(1, 20_000), num_dimensions=st.integers(1, 3))
def test_torus_axes_multiply_to_the_devices(num_devices: int, num_dimensions: int) -> None:
    axes = torus_axes(num_devices, num_dimensions)
    assert len(axes) == num_dimensions
    assert math.prod(axes) == num_devices
    assert max(axes) >= round(num_devices ** (1 / num_dimensions), 6)


def test_torus_axes_of_known_pods() -> None:
    assert sorted(torus_axes(8960, 3)) == [16, 20, 28]
    assert sorted(torus_axes(4096, 3)) == [16, 16, 16]
    assert sorted(torus_axes(256, 2)) == [16, 16]


def _torus(num_devices: int, dimensions: int, wrap: int) -> TierSpec:
    return TierSpec.model_validate(
        tier(topology="torus", num_devices=num_devices, num_dimensions=dimensions, wrap_length=wrap)
    )


def test_a_small_slice_of_a_torus_has_fewer_links() -> None:
    pod = _torus(8960, 3, 4)
    assert link_share(pod, 8960) == link_share(pod, 512) == link_share(pod, 64) == 1.0
    assert link_share(pod, 8) == 0.5  # 2x2x2, no wrap-around
    assert link_share(pod, 4) == pytest.approx(1 / 3)  # 2x2x1
    assert link_share(_torus(256, 2, 16), 128) == 0.75  # 8x16: one axis closes


def test_a_partial_mesh_leaves_links_idle() -> None:
    mesh = TierSpec.model_validate(tier(topology="full-mesh"))
    assert [link_share(mesh, size) for size in (2, 4, 8)] == [1 / 7, 3 / 7, 1.0]
    assert link_share(TierSpec.model_validate(tier()), 2) == 1.0


@given(num_devices=st.integers(1, 1024), dimensions=st.integers(1, 3), wrap=st.integers(1, 16))
def test_a_share_of_links_is_a_fraction(num_devices: int, dimensions: int, wrap: int) -> None:
    assert 0.0 < link_share(_torus(1024, dimensions, wrap), num_devices) <= 1.0


@pytest.mark.parametrize(
    ("tiers", "fault"),
    [
        ([], "tiers"),
        ([outer(), tier()], "only the last tier may leave out num_devices"),
        ([tier(), tier(num_devices=12)], "multiple of the devices of the one inside"),
        ([tier(), tier()], "multiple of the devices of the one inside"),
        ([tier(gb_per_second=0)], "bytes_per_second"),
        ([tier(gb_per_second=float("inf"))], "bytes_per_second"),
        ([tier(latency_us=-1)], "latency_seconds"),
        ([tier(oversubscription=0.5)], "oversubscription"),
        ([tier(topology="torus")], "num_dimensions and wrap_length"),
        ([tier(wrap_length=4, num_dimensions=2)], "num_dimensions and wrap_length"),
        ([tier(num_devices=10**9)], "num_devices"),
        ([tier(num_devices=0)], "num_devices"),
    ],
)
def test_impossible_tiers_do_not_load(tiers: list[object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        node(tiers=tiers)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({}, "either node .* or accelerator"),
        ({"node": "dgx-h100", "accelerator": "h100-sxm"}, "either node .* or accelerator"),
        ({"accelerator": "h100-sxm", "num_nodes": 2, "tiers": [tier()]}, "give num_devices"),
        ({"node": "dgx-h100", "num_nodes": 2, "num_devices": 16}, "num_nodes or num_devices, not both"),
        ({"accelerator": "h100-sxm"}, "at least one is needed"),
    ],
)
def test_a_contradictory_cluster_does_not_load(values: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ClusterSpec.model_validate({"name": "x", "source": "a test", **values})


def _changed(**changes: object) -> Cluster:
    whole = catalog.cluster("dgx-h100", 64)
    return Cluster.model_validate({name: getattr(whole, name) for name in Cluster.model_fields} | changes)


def test_a_cluster_without_a_link_between_nodes_is_refused() -> None:
    inner = catalog.cluster("dgx-h100", 64).tiers[:1]
    with pytest.raises(ValueError, match="reaches 8 devices but the cluster has 64; add a tier"):
        _changed(tiers=inner)


def test_tiers_that_do_not_nest_are_refused() -> None:
    inner, network = catalog.cluster("dgx-h100", 64).tiers
    with pytest.raises(ValueError, match="multiple of the devices"):
        _changed(tiers=(inner.model_copy(update={"num_devices": 24}), network))
    with pytest.raises(ValueError, match="multiple of the devices"):
        _changed(tiers=(network, inner))


def test_oversubscription_divides_the_share_of_a_device() -> None:
    network = catalog.cluster("dgx-h100", 64).tiers[1]
    slower = network.model_copy(update={"oversubscription": 4.0})
    assert slower.usable_bytes_per_second == network.usable_bytes_per_second / 4
