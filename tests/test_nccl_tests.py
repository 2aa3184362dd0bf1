"""Output of nccl-tests, as users keep it, becomes curves of their links."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.collectives import message_seconds
from profiles import catalog
from profiles.files import BadFile
from tests.cli import meshwise
from tests.nccl_logs import SIZES, nccl_log, ring_seconds
from validate.logs.links import group_cluster
from validate.logs.nccl_tests import NcclLog, read_nccl_tests
from validate.logs.profile import from_nccl_tests


def read(tmp_path: Path, text: str, name: str = "run.txt") -> NcclLog:
    path = tmp_path / name
    path.write_text(text)
    return read_nccl_tests([path])


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    log = read(tmp_path, nccl_log())
    assert [message.num_bytes for message in log.messages] == list(SIZES)
    assert {(one.op, one.num_ranks, one.num_hosts) for one in log.messages} == {("all_reduce", 16, 2)}
    assert log.messages[0].seconds == pytest.approx(ring_seconds(SIZES[0], 16), rel=1e-3)
    assert log.device_names == ("NVIDIA H100 80GB HBM3",)
    assert log.skipped.reasons == {}


@pytest.mark.parametrize("prefix", ["[1,0]<stdout>:", "[0] ", "0: ", "    "])
def test_prefixes_of_launchers_are_seen_through(tmp_path: Path, prefix: str) -> None:
    assert read(tmp_path, nccl_log(prefix=prefix)).messages == read(tmp_path, nccl_log()).messages


def test_lines_of_the_library_between_rows_are_passed_over(tmp_path: Path) -> None:
    lines = nccl_log().splitlines()
    noisy = "\n".join(line for row in lines for line in (row, "node-0:4000:4000 [0] NCCL INFO 8 coll channels"))
    assert len(read(tmp_path, noisy).messages) == len(SIZES)


def test_one_file_may_hold_several_collectives(tmp_path: Path) -> None:
    programs = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "sendrecv")
    log = read(tmp_path, "".join(nccl_log(program=program) for program in programs))
    found = list(dict.fromkeys(message.op for message in log.messages))
    assert found == ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]


def test_an_elided_list_of_devices_still_tells_the_hosts(tmp_path: Path) -> None:
    """Documents print the first and the last ranks only."""
    lines = nccl_log(num_hosts=4).splitlines()
    elided = "\n".join(line for line in lines if "Rank" not in line or "device  0" in line or "device  7" in line)
    assert {(one.num_ranks, one.num_hosts) for one in read(tmp_path, elided).messages} == {(32, 4)}


def test_the_name_of_the_file_tells_an_unnamed_test(tmp_path: Path) -> None:
    anonymous = "\n".join(line for line in nccl_log().splitlines() if "Collective test" not in line)
    assert {one.op for one in read(tmp_path, anonymous, "all_reduce_perf-2n.log").messages} == {"all_reduce"}
    with pytest.raises(BadFile, match=r"run\.txt: no usable row .* unnamed test \(call the file all_reduce_perf"):
        read(tmp_path, anonymous)


def test_rows_that_no_plan_can_use_are_counted(tmp_path: Path) -> None:
    broadcast = nccl_log(program="all_gather").replace("all_gather_perf", "broadcast_perf")
    log = read(tmp_path, nccl_log() + broadcast + nccl_log(wrong="3"))
    assert len(log.messages) == len(SIZES)
    assert log.skipped.reasons == {
        "rows of broadcast_perf, which no plan uses": len(SIZES), "rows whose results were wrong": len(SIZES),
    }  # fmt: skip


def test_rows_whose_rates_contradict_the_ranks_are_refused(tmp_path: Path) -> None:
    """A build without MPI runs every process alone: the bus bandwidth is then not that of the ranks listed."""
    lines = nccl_log(num_hosts=1).splitlines()
    fewer = "\n".join(line for line in lines if "Rank" not in line or "device  0" in line or "device  1" in line)
    with pytest.raises(BadFile, match="bus bandwidth is not that of the 2 ranks listed"):
        read(tmp_path, fewer)
    alone = nccl_log(num_hosts=1, per_host=2).replace("Rank  1", "Rank  0")
    with pytest.raises(BadFile, match="ran alone or are not listed"):
        read(tmp_path, alone)


@given(text=st.text(max_size=300))
def test_any_text_is_read_or_refused_with_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "log.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(BadFile, match="no usable row"):
        read_nccl_tests([path])


def test_the_profile_predicts_what_was_measured(tmp_path: Path) -> None:
    log, output = tmp_path / "two-nodes.txt", tmp_path / "mine.toml"
    log.write_text(nccl_log())
    found = from_nccl_tests([log], output, cluster="dgx-h100")
    cluster = catalog.cluster(output, 16)
    predicted = message_seconds("all_reduce", np.array(SIZES, float), 16, 1, cluster)
    assert predicted == pytest.approx([ring_seconds(size, 16) for size in SIZES], rel=0.15)
    (group,) = found.groups
    assert group.link == "infiniband-ndr"
    assert group.error_before_fraction > 0.1
    assert "nccl-tests (all_reduce) in two-nodes.txt" in cluster.source
    (inner, outer) = cluster.tiers
    assert outer.curves.name == "infiniband-ndr-measured"
    assert inner.curves == catalog.cluster("dgx-h100", 8).tiers[0].curves


def test_unmeasured_sizes_and_collectives_follow_the_measured_ones(tmp_path: Path) -> None:
    """Half the rate on eight GPUs is half the rate on four, and an all-gather that stood on the all-reduce follows."""
    base = catalog.cluster("dgx-h100", 8)

    def slow(size: float, ranks: int, program: str) -> float:
        return 2.0 * float(message_seconds("all_reduce", size, ranks, 1, base))

    log, output = tmp_path / "log.txt", tmp_path / "mine.toml"
    log.write_text(nccl_log(num_hosts=1, seconds=slow) + nccl_log(num_hosts=2))
    from_nccl_tests([log], output)
    mine = catalog.cluster(output, 32)
    for ranks in (4, 8):
        before, after = (float(message_seconds("all_reduce", 2.0**30, ranks, 1, one)) for one in (base, mine))
        assert after == pytest.approx(2.0 * before, rel=0.1)
    between = [
        float(message_seconds("all_gather", 2.0**30, 4, 8, one)) for one in (catalog.cluster("dgx-h100", 32), mine)
    ]
    assert between[1] != pytest.approx(between[0], rel=0.01)
    assert mine.tiers[1].curves.collectives["all_gather"].is_carried_over


def test_groups_without_a_place_on_the_cluster_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(nccl_log(num_hosts=1, per_host=16))
    with pytest.raises(ValueError, match="16 ranks ran on one host, but a host of dgx-h100 has 8 devices"):
        from_nccl_tests([log], tmp_path / "mine.toml", cluster="dgx-h100")
    assert not (tmp_path / "mine.toml").exists()
    log.write_text(nccl_log(device="Abacus 3000"))
    with pytest.raises(ValueError, match=r"no accelerator is called 'Abacus 3000'; say whose links"):
        from_nccl_tests([log], tmp_path / "mine.toml")


@pytest.mark.parametrize(("ranks", "hosts", "sizes"), [(8, 1, [8]), (2, 2, [2]), (8, 2, [4, 8]), (32, 4, [8, 32])])
def test_a_group_fills_its_part_of_the_cluster(ranks: int, hosts: int, sizes: list[int]) -> None:
    part = group_cluster(catalog.cluster_spec("dgx-h100"), ranks, hosts)
    assert [tier.num_devices for tier in part.tiers] == sizes
    assert part.tiers[-1].link == ("infiniband-ndr" if hosts > 1 else "nvlink-4")


def test_hosts_of_a_rack_share_one_link() -> None:
    part = group_cluster(catalog.cluster_spec("gb300-nvl72"), 64, 16)
    assert [tier.num_devices for tier in part.tiers] == [64]


def test_the_command_reads_files_and_says_what_they_hold(tmp_path: Path) -> None:
    first, second, output = (tmp_path / name for name in ("a.txt", "b.txt", "mine.toml"))
    first.write_text(nccl_log())
    second.write_text(nccl_log(program="all_gather"))
    said = meshwise("calibrate", "--from-nccl-tests", first, second, "--output", output)
    assert said.code == 0, said.err
    assert "all_gather" in said.out
    assert "infiniband-ndr" in said.out
    found = json.loads(meshwise("calibrate", "--from-nccl-tests", first, "--output", output, "--force", "--json").out)
    assert [group["op"] for group in found["groups"]] == ["all_reduce"]
    assert found["groups"][0]["num_points"] == len(SIZES)
    for words, told in (
        ((first,), "--from-nccl-tests"),
        (("--from-nccl-tests", first, "--quick"), "--quick: says how to measure"),
        (("--cluster", "dgx-h100"), "--cluster: dgx-h100 says whose logs"),
    ):
        refused = meshwise("calibrate", *words, "--output", tmp_path / "other.toml")
        assert (refused.code, refused.out) == (2, "")
        assert told in refused.err
