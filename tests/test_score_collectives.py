"""`score collectives`: tables of messages become messages on clusters, prices and a board."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from planner.cost.collectives import message_seconds
from profiles import catalog
from profiles.units import GIGA
from tests.cli import faults, meshwise
from validate.runs.table import BadTable
from validate.score.collectives import score_collectives
from validate.score.columns import read_table
from validate.score.measured_clusters import measured_cluster
from validate.score.message_tables import library_of, read_messages

HEADER = "gpu,topology,op,num_gpus,num_nodes,gpus_per_node,bytes,dtype,latency_us,impl,launch,source"
TABLE = f"""\
{HEADER}
h100_sxm,nvswitch,all_reduce,8,1,8,67108864,float16,300,nccl-tests,loop,a@1:x
h100_sxm,nvswitch,all_reduce,8,1,8,67108864,int8,400,nccl-tests,loop,a@1:x
h100_sxm,nvswitch,alltoall,4,1,8,1048576,float16,20,nccl-tests,loop,a@1:x
h100_sxm,nvswitch,all_reduce,8,1,8,8192,bfloat16,4,trtllm_allreduce:TRTLLM,cuda_graph,a@1:x
h100_sxm,nvswitch + inter-node GCP A3-Mega,all_reduce,16,2,8,67108864,float32,1262,nccl-tests,loop,b@2:y
b200_sxm,nvswitch + inter-node network,AllReduce,16,2,8,1024,float16,50,nccl-tests,loop,b@2:y
h100_sxm,nvswitch,gather,8,1,8,1048576,float16,20,nccl-tests,loop,a@1:x
h100_sxm,nvswitch,broadcast,8,1,8,1048576,float16,20,nccl-tests,loop,a@1:x
abacus,beads,all_reduce,8,1,8,1048576,float16,20,nccl-tests,loop,a@1:x
a100_sxm,nvswitch + inter-node network,all_reduce,4,2,2,1048576,float16,300,torch.distributed nccl,eager,c:z
a100_pairwise,"pairwise NVLink, 4 GPU node",all_reduce,4,1,4,1048576,float16,100,torch.distributed nccl,eager,c:z
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_rows_are_priced_by_the_prices_of_plans(table: Path) -> None:
    board = score_collectives(table, rows=True)
    assert board.rows is not None
    predicted = {row["id"]: row["predicted"] for row in board.rows}
    node = catalog.cluster("h100-sxm", 8)
    assert predicted[1] == pytest.approx(float(message_seconds("all_reduce", 67108864.0, 8, 1, node)))
    assert predicted[3] == pytest.approx(float(message_seconds("all_to_all", 1048576.0, 4, 1, node)))
    assert predicted[2] > 1.1 * predicted[1]  # switches do not reduce integers
    two = catalog.cluster("a3-megagpu-8g", 16)
    assert predicted[5] == pytest.approx(float(message_seconds("all_reduce", 67108864.0, 16, 1, two)))
    usual = catalog.cluster("b200-sxm", 16)
    assert predicted[6] == pytest.approx(float(message_seconds("all_reduce", 1024.0, 16, 1, usual)))
    nobody, other = sorted(board.skipped)
    assert "gather is none of all_reduce" in nobody
    assert "abacus" in other
    assert board.overall.n == 9
    assert board.baseline.median is not None
    assert {name: errors.n for name, errors in board.by_library.items()} == {"nccl": 6, "torch": 2, "trtllm": 1}


EXCHANGES = """\
gpu,mode,node_num,hidden_size,num_tokens_per_rank,topk,num_experts,sms,dispatch_us,combine_us,source
h100_sxm,normal,1,7168,4096,8,256,20,492,982,a@1:x
h100_sxm,normal,2,7168,4096,8,256,20,843,2099,a@1:x
h100_sxm,normal,8,7168,4096,8,256,20,5516,4461,a@1:x
h100_sxm,normal,1,7168,4096,8,256,4,2068,3897,a@1:x
h100_sxm,low_latency,1,7168,128,8,256,,30,40,a@1:x
"""


def test_exchanges_between_experts_are_messages_too(tmp_path: Path) -> None:
    path = tmp_path / "deepep.csv"
    path.write_text(EXCHANGES, encoding="utf-8")
    board = score_collectives(path)
    assert board.overall.n == 8
    assert board.skipped == {"more than 4 nodes": 2}
    assert board.overall.median is not None
    assert board.overall.median < 0.2 < (board.baseline.median or 0.0)
    assert {name: errors.n for name, errors in board.by_library.items()} == {"deepep": 6, "deepep-ll": 2}


def test_groups_lie_where_the_table_says(table: Path) -> None:
    batches = {
        (batch.accelerator.name, batch.cluster.num_devices): batch
        for batch in read_messages(read_table(table), Counter())
    }
    spread = batches["a100-sxm-80gb", 16]
    assert list(spread.strides) == [4.0]  # two of eight devices of each node
    bridged = batches["a100-pcie-80gb", 4]
    assert [tier.num_devices for tier in bridged.cluster.tiers] == [2, 4]


@pytest.mark.parametrize(
    ("gpu", "topology", "num_used", "link", "gigabytes"),
    [
        ("h200_sxm", "nvswitch + inter-node AWS P5en EFAv3 16x200Gb/s", 8, "efa", 50.0),
        ("mi300x", "xgmi + RoCE 8x400Gb/s", 8, "roce", 50.0),
        ("l40s", "PCIe + inter-node InfiniBand HDR 2x200Gb/s", 8, "infiniband-hdr", 6.25),
        ("a100_sxm", "nvswitch + inter-node network", 1, "ethernet", 12.5),
        ("a100_sxm", "nvswitch + inter-node network", 8, "ethernet", 6.25),  # eight devices share four adapters
        ("gb200", "NVL72", 4, "nvlink-5", 900.0),
        ("rtx4090", "pcie + inter-node network", 8, "ethernet", None),
    ],
)
def test_networks_are_those_a_topology_names(
    gpu: str, topology: str, num_used: int, link: str, gigabytes: float | None
) -> None:
    outer = measured_cluster(gpu, topology, 2, num_used, reduces=True).tiers[-1]
    assert outer.link == link
    assert gigabytes is None or outer.bytes_per_second == pytest.approx(gigabytes * GIGA)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ("16,0,8,1024", "no nodes"), ("1,1,1,1024", "fewer than two"), ("16,2,8,0", "no bytes"),
        ("3,4,1,1024", "fewer than two"), (",2,8,1024", "fewer than two"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_counted(tmp_path: Path, sizes: str, reason: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        f"{HEADER}\nh100_sxm,nvswitch,all_reduce,{sizes},float16,30,nccl-tests,loop,a@1:x\n", encoding="utf-8"
    )
    assert list(score_collectives(path).skipped.values()) == [1], reason


def test_implementations_have_curves_of_their_own() -> None:
    node = catalog.cluster("h100-sxm", 8)
    seconds = {
        library: float(message_seconds("all_reduce", 8192.0, 8, 1, node, library))
        for library in ("", "trtllm", "vllm", "vllm-eager", "torch", "nobody's")
    }
    assert seconds["trtllm"] < seconds[""] / 2  # one shot instead of a ring
    assert seconds["vllm"] < seconds["vllm-eager"]
    assert seconds["nobody's"] == seconds[""]


@pytest.mark.parametrize("library", ["", "torch", "trtllm", "sglang", "vllm", "sglang-eager", "vllm-eager"])
@pytest.mark.parametrize("node", ["h100-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "rtx-pro-6000"])
def test_more_bytes_never_take_less_time(node: str, library: str) -> None:
    sizes = np.logspace(2, 10, 60)
    seconds = message_seconds("all_reduce", sizes, 8, 1, catalog.cluster(node, 8), library)
    assert (np.diff(seconds) >= 0).all()


@pytest.mark.parametrize(
    ("implementation", "launch", "library"),
    [
        ("nccl-tests", "loop", ""),
        ("torch.distributed nccl 2.27.7 (all_reduce_bench.py)", "loop", ""),
        ("torch.distributed nccl", "eager,kernel time", "torch"),
        ("trtllm_allreduce:TRTLLM", "cuda_graph", "trtllm"),
        ("sglang_allreduce:TRTLLM", "cuda_graph", "trtllm"),
        ("vllm_allreduce:vLLM_custom_eager", "eager", "vllm-eager"),
        ("oneccl", "loop", "oneccl"),
    ],
)
def test_implementations_are_named(implementation: str, launch: str, library: str) -> None:
    assert library_of(implementation, launch) == library


def test_bad_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("gpu,m\nh100,1\n", encoding="utf-8")
    with pytest.raises(BadTable, match="topology, op, impl"):
        score_collectives(path)
    path.write_text(TABLE.replace("67108864,float16,300", "many,float16,300"), encoding="utf-8")
    with pytest.raises(BadTable, match="'many' is not a number"):
        score_collectives(path)


def test_the_command_prints_a_board(table: Path, tmp_path: Path) -> None:
    shown = meshwise("score", "collectives", table)
    assert shown.code == 0
    assert "nvlink-4 + tcpx" in shown.out
    document = json.loads(meshwise("score", "collectives", table, "--json", "--rows").out)
    assert len(document["rows"]) == document["overall"]["n"] == 9
    assert not faults(meshwise("score", "collectives", tmp_path / "none.csv"))


def test_flows_on_an_even_network_keep_the_prices(table: Path) -> None:
    priced, flowing = (json.loads(meshwise("score", "collectives", table, "--fidelity", one, "--json").out)
                       for one in ("prices", "flows"))  # fmt: skip
    assert flowing["overall"] == pytest.approx(priced["overall"], rel=1e-6)
    assert not faults(result := meshwise("score", "kernels", table, "--fidelity", "flows"))
    assert "fidelity" in result.err


@pytest.mark.skipif("MEASURED_COLLECTIVES" not in os.environ, reason="names a table of measured collectives")
def test_measured_curves_over_named_networks_are_met() -> None:
    """Rows of several nodes whose table says which network joins them."""
    board = score_collectives(os.environ["MEASURED_COLLECTIVES"], rows=True, flows=True)
    table = read_table(os.environ["MEASURED_COLLECTIVES"])
    assert board.rows is not None
    named = [row for row in board.rows if float(table["num_nodes"][int(row["id"]) - 1]) > 1
             and any(name in table["topology"][int(row["id"]) - 1] for name in ("A3-Mega", "P6-B200"))]  # fmt: skip
    errors = [abs(row["predicted"] / row["measured"] - 1.0) for row in named]
    assert len(errors) > 10
    assert np.median(errors) < 0.15
