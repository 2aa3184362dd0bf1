"""Files with several groups of nodes."""

from pathlib import Path

import pytest

from profiles import catalog
from profiles.cluster import Cluster
from profiles.files import BadFile
from profiles.mixed import MixedCluster
from tests.cli import meshwise

H100 = '[[groups]]\nname = "h100"\nnode = "dgx-h100"\nnum_nodes = 4\n'
A100 = '[[groups]]\nname = "a100"\nnode = "dgx-a100"\nnum_nodes = 2\n'
PLAIN = '[[groups]]\nnode = "dgx-h100"\nnum_nodes = 2\n'
JOIN = '[join]\nlink = "ethernet"\ntotal_gb_per_second = 12.5\n'


def written(folder: Path, *parts: str) -> Path:
    path = folder / "room.toml"
    path.write_text("\n".join(['name = "room"', 'source = "a test"', *parts]))
    return path


def test_groups_keep_their_nodes(tmp_path: Path) -> None:
    room = catalog.any_cluster(written(tmp_path, H100, A100))
    assert isinstance(room, MixedCluster)
    assert room.num_devices == 48
    assert [group.cluster.accelerator.name for group in room.groups] == ["h100-sxm", "a100-sxm-80gb"]


def test_equal_groups_on_one_fabric_are_one_cluster(tmp_path: Path) -> None:
    whole = catalog.any_cluster(written(tmp_path, PLAIN, PLAIN))
    assert isinstance(whole, Cluster)
    assert whole.tiers == catalog.cluster("dgx-h100", 32).tiers


def test_a_join_keeps_equal_groups_apart(tmp_path: Path) -> None:
    named = PLAIN + 'name = "south"\n'
    sites = catalog.any_cluster(written(tmp_path, PLAIN, named, JOIN))
    assert isinstance(sites, MixedCluster)
    assert sites.join is not None
    assert sites.join.total_bytes_per_second == 12.5e9


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((H100, H100, JOIN), "two have the same name"),
        ((H100, A100, '[join]\nlink = "ethernet"\n'), "gb_per_second"),
        ((H100, A100.replace("dgx-a100", "dgx-a1000")), "dgx-a100"),
        ((H100, A100.replace("= 2", "= 0")), "num_nodes"),
    ],
)
def test_a_faulty_file_is_refused_with_its_fault(tmp_path: Path, parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadFile, match=message):
        catalog.any_cluster(written(tmp_path, *parts))


def test_another_number_of_devices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="48 together, got 16"):
        catalog.any_cluster(written(tmp_path, H100, A100), 16)


def test_the_commands_take_it_or_say_why_not(tmp_path: Path) -> None:
    room = str(written(tmp_path, H100, A100))
    asked = ("--model", "llama3-8b", "--cluster", room, "--global-batch", "96", "--tp", "8")
    placed = (*asked, "--placement", "4 of h100 @16; 2 of a100 @16")
    for command in (
        ("profiles", "show", room),
        ("diff", room, "dgx-h100"),
        ("estimate", *placed),
        ("simulate", *placed),
    ):
        result = meshwise(*command)
        assert result.code == 0, result.err
        assert "a100" in result.out
    for command in (
        ("plan", *asked[:6], "--scale", "8,16"), ("plan", *asked[:6], "--pareto"), ("validate", *placed),
        ("estimate", *placed, "--explain"), ("export", "--to", "megatron", *placed),
    ):  # fmt: skip
        result = meshwise(*command)
        assert result.code == 2
        assert result.err.count("\n") == 1
