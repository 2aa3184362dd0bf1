"""Traces of PyTorch's profiler become curves of the device and the links they ran on."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.collectives import message_seconds
from planner.cost.kernels import kernel_seconds
from planner.work.ops import Attention, Gemm
from profiles import catalog
from profiles.files import BadFile
from tests.cli import meshwise
from validate.logs.profile import from_traces
from validate.logs.torch_trace import read_traces

BASE = catalog.cluster("dgx-h100", 16)
SHAPES = tuple((4096, n, k) for n, k in ((4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336), (32000, 4096)))
HEADS = ((4096, 32), (8192, 16), (2048, 32))
SLOWER = 1.4
"""The machine of these traces, against the catalog's."""
Event = dict[str, Any]


def operator(identity: int, name: str, shapes: Sequence[Any], dtype: str, concrete: Sequence[str] = ()) -> Event:
    args = {"External id": identity, "Input Dims": list(shapes), "Input type": [dtype] * len(shapes),
            "Concrete Inputs": list(concrete)}  # fmt: skip
    return {
        "ph": "X",
        "cat": "cpu_op",
        "name": name,
        "pid": 1,
        "tid": 1,
        "ts": 10.0 * identity,
        "dur": 5.0,
        "args": args,
    }


def kernel(identity: int, seconds: float, **more: Any) -> Event:
    args = {"External id": identity, "correlation": identity, **more}
    return {"ph": "X", "cat": "kernel", "name": "sm90_gemm", "ts": 10.0 * identity, "dur": 1e6 * seconds, "args": args}


def gpu_events(slower: float = SLOWER) -> list[Event]:
    """Products, attention and one-host all-reduces on an H100, each twice; the second of a message waited."""
    events: list[Event] = []
    identity = 0
    for repeat in (0, 1):
        for m, n, k in SHAPES:
            identity += 1
            price = float(kernel_seconds(Gemm(float(m), float(n), float(k)), BASE))
            events += [operator(identity, "aten::mm", [[m, k], [k, n]], "c10::BFloat16"),
                       kernel(identity, 0.9 * slower * price), kernel(identity, 0.1 * slower * price)]  # fmt: skip
        for length, heads in HEADS:
            identity += 1
            op = Attention(1.0, heads, heads, length, length, 128.0, 128.0, kernel="flash-2")
            name, shape = "aten::_scaled_dot_product_flash_attention", [1, heads, length, 128]
            concrete = ("", "", "", "0.", "True", "False", "")
            events += [operator(identity, name, [shape] * 3, "c10::BFloat16", concrete),
                       kernel(identity, slower * float(kernel_seconds(op, BASE)))]  # fmt: skip
        for size in (1 << 20, 1 << 24, 1 << 28, 1 << 30):
            identity += 1
            seconds = slower * float(message_seconds("all_reduce", float(size), 8, 1, BASE)) * (1 + repeat)
            events.append(kernel(identity, seconds, **{
                "Collective name": "allreduce", "dtype": "BFloat16", "In msg nelems": size // 2,
                "Out msg nelems": size // 2, "Group size": 8, "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]",
            }))  # fmt: skip
    return events


def written(path: Path, events: list[Event]) -> Path:
    document = {"traceEvents": events, "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}]}
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["rank0.json", "rank0.pt.trace.json.gz"])
def test_kernels_are_told_by_the_operators_that_launched_them(tmp_path: Path, name: str) -> None:
    trace = read_traces([written(tmp_path / name, gpu_events())])
    products = [row for row in trace.kernels if row["kind"] == "gemm"]
    assert [(row["m"], row["n"], row["k"]) for row in products] == [*SHAPES, *SHAPES]
    assert {row["dtype"] for row in products} == {"bf16"}
    price = float(kernel_seconds(Gemm(*(float(size) for size in SHAPES[0])), BASE))
    assert products[0]["seconds"] == pytest.approx(SLOWER * price)
    assert len([row for row in trace.kernels if row["kind"] == "attention"]) == 2 * len(HEADS)
    assert {message.ranks for message in trace.messages} == {tuple(range(8))}
    assert trace.read_seconds == pytest.approx(trace.kernel_seconds)


def test_the_profile_predicts_what_was_traced(tmp_path: Path) -> None:
    path, output = written(tmp_path / "rank0.json", gpu_events()), tmp_path / "mine.toml"
    found = from_traces([path], output)
    mine = catalog.cluster(output, 16)
    for m, n, k in SHAPES:
        op = Gemm(float(m), float(n), float(k))
        assert float(kernel_seconds(op, mine) / kernel_seconds(op, BASE)) == pytest.approx(SLOWER, rel=0.1)
    slower = message_seconds("all_reduce", 2.0**28, 8, 1, mine) / message_seconds("all_reduce", 2.0**28, 8, 1, BASE)
    assert float(slower) == pytest.approx(SLOWER, rel=0.15)
    assert {one.name for one in found.kernels} == {"matmul bf16", "attention"}
    assert all(one.error_after_fraction < 0.5 * one.error_before_fraction for one in found.kernels)
    assert found.read_fraction == pytest.approx(1.0)


def test_a_trace_that_agrees_changes_little(tmp_path: Path) -> None:
    path, output = written(tmp_path / "rank0.json", gpu_events(1.0)), tmp_path / "mine.toml"
    from_traces([path], output)
    mine = catalog.cluster(output, 16)
    for op in (Gemm(4096.0, 4096.0, 4096.0), Gemm(128.0, 1024.0, 8192.0)):
        assert float(kernel_seconds(op, mine) / kernel_seconds(op, BASE)) == pytest.approx(1.0, rel=0.03)


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    events = [
        *gpu_events(),
        operator(900, "aten::mm", [], "c10::BFloat16"), kernel(900, 1.0),
        operator(904, "aten::mm", [[4, 4], [4, 4]], "fp7"), kernel(904, 1.0),
        operator(901, "mylib::magic", [[4, 4]], "float"), kernel(901, 1.0),
        kernel(902, 1.0, **{"Collective name": "broadcast", "dtype": "Float", "In msg nelems": 4, "Group size": 8,
                            "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]"}),
        kernel(903, 1.0),
    ]  # fmt: skip
    trace = read_traces([written(tmp_path / "t.json", events)])
    assert trace.skipped.reasons == {
        "messages (broadcast) that are not priced, or without sizes or ranks": 1,
        "kernels without shapes (profile with record_shapes=True)": 1,
        "kernels of aten::mm in shapes or formats that are not priced": 1,
        "kernels of mylib::magic": 1,
        "kernels whose operator the trace does not hold": 1,
    }
    assert trace.read_seconds < trace.kernel_seconds


def test_long_lists_of_ranks_go_on_as_they_began(tmp_path: Path) -> None:
    said = {"Collective name": "_allgather_base", "dtype": "Float", "In msg nelems": 8, "Out msg nelems": 64}
    event = kernel(1, 1e-3, **said, **{"Group size": 8, "Process Group Ranks": "[3, 11, 19, ...]"})
    (message,) = read_traces([written(tmp_path / "t.json", [event])]).messages
    assert message.ranks == tuple(range(3, 64, 8))
    assert (message.op, message.num_bytes) == ("all_gather", 256.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"not json", "not the JSON of a Chrome trace"),
        (b"\x1f\x8bbroken", "not the JSON of a Chrome trace"),
        (b"[1, 2]", "it has no list of traceEvents"),
        (b'{"traceEvents": []}', "it has no kernels and no messages"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(text)
    refused = meshwise("calibrate", "--from-trace", path, "--cluster", "dgx-h100", "--output", tmp_path / "mine.toml")
    assert (refused.code, refused.out) == (2, "")
    assert told in refused.err


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(-5, 10**6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(dims=VALUES, types=VALUES, ranks=VALUES, sizes=VALUES)
def test_odd_arguments_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, dims: Any, types: Any, ranks: Any, sizes: Any
) -> None:
    """Traces are written by many versions and tools; what is odd is counted, and the rest is read."""
    odd = operator(500, "aten::mm", [], "float") | {
        "args": {"External id": 500, "Input Dims": dims, "Input type": types}
    }
    message = kernel(501, 1e-3, **{"Collective name": "allreduce", "dtype": "Float", "In msg nelems": sizes,
                                   "Group size": sizes, "Process Group Ranks": ranks})  # fmt: skip
    path = tmp_path_factory.mktemp("odd") / "t.json"
    good = [operator(1, "aten::mm", [[8, 8], [8, 8]], "float"), kernel(1, 1e-3)]
    trace = read_traces([written(path, [*good, odd, kernel(500, 1e-3), message])])
    assert trace.kernels[0]["m"] == 8


def test_a_trace_of_this_torch_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "cpu.json"
    layer = torch.nn.Linear(256, 512)
    query = torch.randn(1, 2, 64, 32, requires_grad=True)
    tokens = torch.randn(128, 256)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        layer(tokens).sum().backward()
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
    profiler.export_chrome_trace(str(path))
    trace = read_traces([path])
    shapes = {(row["m"], row["n"], row["k"]) for row in trace.kernels if row["kind"] == "gemm"}
    assert (128, 512, 256) in shapes
    assert (512, 256, 128) in shapes
    attention = [row for row in trace.kernels if row["kind"] == "attention"]
    assert {row["direction"] for row in attention} == {"forward", "backward"}
    assert all(row["causal"] for row in attention)


def test_the_command_says_how_much_was_read(tmp_path: Path) -> None:
    path, output = written(tmp_path / "rank0.json", gpu_events()), tmp_path / "mine.toml"
    said = meshwise("calibrate", "--from-trace", path, "--output", output)
    assert said.code == 0, said.err
    assert "shapes were read for 100% of the kernels' time" in said.out
    assert "matmul bf16" in said.out
    found = json.loads(meshwise("calibrate", "--from-trace", path, "--output", output, "--force", "--json").out)
    assert found["read_fraction"] == pytest.approx(1.0)
    assert {one["name"] for one in found["kernels"]} == {"matmul bf16", "attention"}
    few = written(tmp_path / "few.json", [operator(1, "aten::mm", [[8, 8], [8, 8]], "float"), kernel(1, 1e-3)])
    with pytest.raises(ValueError, match=r"few\.json: no price can be fitted: too few shapes and sizes"):
        from_traces([few], tmp_path / "other.toml")
    with pytest.raises(BadFile, match="cannot be read"):
        read_traces([tmp_path / "nowhere.json"])
