"""Equal groups of nodes as one tree of links: the same prices, and what is no such tree."""

import json
from pathlib import Path

import pytest

from planner.placement import parsed
from planner.plan import Plan
from planner.work.one_tree import SIDE_BY_SIDE, one_tree
from profiles import catalog
from profiles.mixed import MixedCluster
from tests.cli import faults, meshwise

EXAMPLES = Path(__file__).parents[1] / "examples"
SITES = EXAMPLES / "two-sites.toml"


def tree(placement: str, *, path: Path = SITES, dp: int = 8, pp: int = 2):
    sites = catalog.any_cluster(path)
    assert isinstance(sites, MixedCluster)
    return one_tree(Plan(dp=dp, tp=4, pp=pp, placement=parsed(placement)), sites, 8)


def test_the_join_is_a_tier_that_all_devices_of_a_site_share():
    found = tree("4 of north*2; 4 of south*2 @8")
    assert found is not None
    plan, cluster = found
    assert (plan.order, plan.placement) == (SIDE_BY_SIDE, ())
    assert [tier.num_devices for tier in cluster.tiers] == [8, 32, 64]
    assert cluster.tiers[-1].bytes_per_second * 32 == pytest.approx(12.5e9)


@pytest.mark.parametrize("placement", ["8 of north*1,south*1", "8 of south*1,north*1"])
def test_stages_in_line_are_ranks_in_their_usual_order(placement: str):
    found = tree(placement)
    assert found is not None
    assert found[0] == Plan(dp=8, tp=4, pp=2)


@pytest.mark.parametrize(
    ("placement", "dp", "pp"),
    [
        ("4 of north*2 @9; 4 of south*2 @7", 8, 2),
        ("2 of north*2; 4 of south*2", 6, 2),
        ("4 of north*1,south*3", 4, 4),
        ("4 of north*1,south*1,north*1,south*1", 4, 4),
        ("2 of north*2,south*2; 2 of north*4", 4, 4),
    ],
)
def test_unequal_shares_are_no_tree(placement: str, dp: int, pp: int):
    assert tree(placement, dp=dp, pp=pp) is None


def test_one_group_alone_is_its_nodes_whatever_the_others_are():
    found = tree("4 of h100*2", path=EXAMPLES / "a100-h100-room.toml", dp=4)
    assert found is not None
    assert found[1].accelerator.name == "h100-sxm"
    assert tree("4 of h100*1,a100*1", path=EXAMPLES / "a100-h100-room.toml", dp=4) is None


@pytest.mark.parametrize("placement", ["4 of north*2; 4 of south*2", "8 of north*1,south*1", "4 of south*2"])
def test_flows_on_the_tree_take_what_groups_are_priced_at(placement: str):
    dp = "4" if ";" not in placement and "," not in placement else "8"
    asked = ["--model", "llama3-8b", "--cluster", SITES, "--global-batch", "64", "--tp", "4", "--pp", "2", "--dp", dp]
    document = json.loads(meshwise("simulate", *asked, "--placement", placement, "--network", "flows", "--json").out)
    estimated, simulated = (document[name]["step_seconds"] for name in ("estimated", "simulated"))
    assert simulated == pytest.approx(estimated, rel=0.02)


def test_groups_of_different_nodes_are_refused_on_links():
    room = ["--model", "llama3-8b", "--cluster", EXAMPLES / "a100-h100-room.toml", "--global-batch", "64"]
    refused = meshwise("simulate", *room, "--tp", "4", "--pp", "2", "--dp", "8", "--network", "flows")
    assert not faults(refused)
    assert "groups of equal nodes" in refused.err
