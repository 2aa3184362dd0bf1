"""The cluster of a published run: nodes that its source names or counts, and the network that it states."""

import pytest

from profiles import catalog
from profiles.catalog import UnknownName
from profiles.units import GIGA
from validate.runs.clusters import accelerator_name, cluster_of


def test_remarks_and_sizes_do_not_hide_an_accelerator() -> None:
    assert accelerator_name("T4-16GB (AWS g4dn.12xlarge)") == "T4-16GB"
    for stated in ("B200-180GB", "H100-96GB-HBM2e-500W (Grand Teton)", "V100-SXM2-32GB"):
        assert cluster_of(stated, 8, 8, "").num_devices == 8
    with pytest.raises(UnknownName):
        cluster_of("abacus", 8, 8, "")


def test_a_system_that_the_source_names_has_its_own_nodes() -> None:
    usual = cluster_of("A100-SXM4-80GB", 16, 8, "4x Omni-Path links/node")
    named = cluster_of("A100-SXM4-80GB", 16, 8, "4x Omni-Path links/node (Jean Zay)")
    record = catalog.cluster("jean-zay-a100", 16)
    assert named.tiers == record.tiers
    assert usual.tiers[0].bytes_per_second == catalog.cluster("dgx-a100", 16).tiers[0].bytes_per_second
    assert usual.tiers[-1].link == named.tiers[-1].link == "omni-path"


def test_nodes_hold_as_many_devices_as_the_source_says() -> None:
    quads = cluster_of("A100-80GB", 16, 4, "")
    assert [tier.num_devices for tier in quads.tiers] == [4, 16]
    assert cluster_of("GH200", 8, 4, "").devices_per_node == 4
    assert [tier.num_devices for tier in cluster_of("A100-80GB", 16, 1, "").tiers] == [16]
    with pytest.raises(ValueError, match="multiple"):
        cluster_of("A100-80GB", 10, 4, "")


def test_a_rack_of_small_nodes_stays_one_scale_up_domain() -> None:
    assert cluster_of("GB200", 64, 4, "").tiers == cluster_of("GB200", 64, None, "").tiers


@pytest.mark.parametrize(
    ("told", "gigabytes"), [("800 Gb/s", 12.5), ("400 Gb/s per GPU", 50.0), ("1600 Gb/s RoCE", 25.0), ("", 25.0)]
)
def test_the_stated_network_rate_is_that_of_a_device(told: str, gigabytes: float) -> None:
    assert cluster_of("A100-80GB", 16, 8, told).tiers[-1].bytes_per_second == gigabytes * GIGA
