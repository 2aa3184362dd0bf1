"""`score kernels`: tables of kernels become operations, prices and a board."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from planner.cost.kernels import kernel_seconds
from planner.work.ops import Attention, DecodeAttention, ExpertLayer, Gemm
from profiles import catalog
from tests.cli import faults, meshwise
from validate.runs.table import BadTable
from validate.score.columns import read_table
from validate.score.kernel_tables import cached_fraction, read_batches
from validate.score.kernels import score_kernels

GEMM = """\
gpu,dtype,m,n,k,latency_us,backend,source
h100_sxm,bfloat16,4096,8192,8192,900,trtllm,somebody@1:a
h100_sxm,fp8,64,8192,8192,40,vllm,somebody@1:b
b200_sxm,nvfp4,64,8192,8192,20,sglang,else@2:c
h100_sxm,nvfp4,64,8192,8192,20,sglang,else@2:c
voodoo,fp8,64,8192,8192,20,sglang,else@2:c
h100_sxm,fp8,64,8192,8192,,vllm,somebody@1:b
"""
HEADS = "gpu,attn_dtype,kv_cache_dtype,batch,q_len_per_seq,past_kv_len,num_heads,num_kv_heads,head_dim,window_size"
PREFILL = f"""\
{HEADS},latency_us,backend,suspect
h100_sxm,bfloat16,bfloat16,4,1024,0,32,8,128,0,200,vllm,0
h100_sxm,bfloat16,bfloat16,4,1024,1024,32,8,128,128,200,vllm,0
h100_sxm,bfloat16,bfloat16,4,1024,0,32,8,128,0,1,vllm,1
"""
DECODE = f"""\
{HEADS},latency_us,backend,kv_bytes
a100_sxm,bfloat16,bfloat16,16,1,4095,32,8,128,0,200,vllm,1
"""
ELEMENTWISE = """\
gpu,op,bytes_min,latency_us,backend
a100_sxm,add,1000000,5,vidur(sarathi/torch)
"""
EXPERTS = """\
gpu,backend,dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,latency_us,kernel_source
h100_sxm,trtllm,fp8,256,4096,1536,8,128,2,4,balanced,100,a
h100_sxm,trtllm,fp8,256,4096,1536,8,128,1,1,power_law_1.2,400,a_nongated
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_priced_by_the_prices_of_plans(tmp_path: Path) -> None:
    board = score_kernels(write(tmp_path, GEMM), rows=True)
    first = Gemm(4096.0, 8192.0, 8192.0, library="trtllm", form="bf16")
    assert board.rows is not None
    expected = float(kernel_seconds(first, catalog.cluster("h100-sxm", 1)))
    assert board.rows[0]["predicted"] == pytest.approx(expected, rel=1e-4)
    assert [row["id"] for row in board.rows] == [1, 2, 3]
    assert all(row["low"] < row["predicted"] < row["high"] for row in board.rows)
    inside = [row["low"] <= row["measured"] <= row["high"] for row in board.rows]
    assert board.overall.coverage == pytest.approx(np.mean(inside))
    assert board.overall.n == 3
    assert {name: errors.n for name, errors in board.by_form.items()} == {"bf16": 1, "fp8": 1, "nvfp4": 1}
    assert {name: errors.n for name, errors in board.by_source.items()} == {"else@2": 1, "somebody@1": 2}
    assert board.baseline.median is not None
    assert board.overall.median is not None
    assert board.overall.median < board.baseline.median


def test_what_cannot_be_modelled_is_counted(tmp_path: Path) -> None:
    skipped = score_kernels(write(tmp_path, GEMM)).skipped
    assert skipped["no latency"] == 1
    assert skipped["accelerator voodoo is not in the catalog"] == 1
    assert sum(skipped.values()) == 3
    assert score_kernels(write(tmp_path, PREFILL)).skipped == {"marked suspect by the table": 1}


@pytest.mark.parametrize("table", [GEMM, DECODE, ELEMENTWISE])
def test_devices_without_libraries_are_priced_by_the_curves_of_training(tmp_path: Path, table: str) -> None:
    text = table.replace("h100_sxm", "v100").replace("a100_sxm", "v100")
    board = score_kernels(write(tmp_path, text), rows=True)
    assert board.rows
    own = [row for row in board.rows if row["accelerator"] == "v100-sxm-32gb"]
    assert own
    assert all("by the curves of training" in row["library"] for row in own)
    assert all(row["low"] == pytest.approx(row["predicted"] / 2.0) for row in own)


def test_experts_without_libraries_stay_refused(tmp_path: Path) -> None:
    board = score_kernels(write(tmp_path, EXPERTS.replace("h100_sxm", "v100")))
    assert any("no library's kernels" in reason for reason in board.skipped)


def test_attention_rows_become_operations(tmp_path: Path) -> None:
    (batch,) = read_batches(read_table(write(tmp_path, PREFILL)), Counter())
    assert isinstance(batch.op, Attention)
    assert list(batch.op.key_length) == [1024.0, 2048.0]
    assert list(batch.op.num_pairs) == [0.5 * 1024**2, 1024 * 128]
    assert batch.form == "bf16/bf16"
    (batch,) = read_batches(read_table(write(tmp_path, DECODE)), Counter())
    assert isinstance(batch.op, DecodeAttention)
    assert batch.op.kv_bytes == pytest.approx(16 * 4096 * 8 * 256 * 2)
    assert score_kernels(write(tmp_path, ELEMENTWISE)).by_op["elementwise"].n == 1


def test_expert_rows_become_operations(tmp_path: Path) -> None:
    (batch,) = read_batches(read_table(write(tmp_path, EXPERTS)), Counter())
    assert isinstance(batch.op, ExpertLayer)
    assert list(batch.op.rows) == [512.0, 2048.0]
    assert list(batch.op.width) == [768.0, 1536.0]
    assert list(batch.op.experts) == [32.0, 128.0]
    assert list(batch.op.skew) == [0.0, 1.2]
    assert list(batch.op.num_matrices) == [3.0, 2.0]


def test_small_weights_stay_in_the_cache_of_a_benchmark() -> None:
    h100 = catalog.accelerator("h100-sxm")
    small, large = np.array([1e5]), np.array([1e9])
    for library in ("trtllm", "sglang"):
        assert cached_fraction(small, library, "bf16", h100) > 0.99
        assert cached_fraction(large, library, "bf16", h100) < 0.01
    assert cached_fraction(small, "torch", "bf16", h100) == 0.0


def test_gzipped_tables_read_as_plain_ones(tmp_path: Path) -> None:
    plain = write(tmp_path, GEMM)
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert score_kernels(packed).as_dict() == score_kernels(plain).as_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no table of kernels"),
        ("gpu,k\n", "no rows"),
        (GEMM.replace("4096,8192,8192,900", "4096,wide,8192,900"), "column n: 'wide' is not a number"),
        (GEMM.replace("4096,8192,8192,900", "4096,inf,8192,900"), "column n: 'inf' is not a finite number"),
        (GEMM.replace(",latency_us", ",time"), "column 'latency_us' is missing"),
        ("gpu,k\n1\n", "line 2: 1 fields"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadTable, match=message):
        score_kernels(write(tmp_path, text))


def test_the_command_prints_a_board(tmp_path: Path) -> None:
    table = str(write(tmp_path, GEMM))
    shown = meshwise("score", "kernels", table, "--rows")
    assert shown.code == 0
    assert "baseline: datasheet rates" in shown.out
    assert "voodoo" in shown.out
    document = json.loads(meshwise("score", "kernels", table, "--json").out)
    assert document["schema_version"] == 1
    assert document["overall"]["n"] == 3
    assert set(document) >= {"by_op", "by_accelerator", "by_source", "baseline", "skipped"}
    assert not faults(meshwise("score", "kernels", str(tmp_path / "none.csv")))
