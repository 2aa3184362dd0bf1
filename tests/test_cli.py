"""Commands as a user types them: answers, exit codes, JSON keys, golden outputs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwise import __version__
from planner.breakdown import PARTS
from planner.plan import PLAN_FIELDS, SCHEDULE_NAMES, Recompute
from tests.cli import faults, meshwise

LLAMA = ("--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "16", "--global-batch", "64")
SPLIT = ("--tp", "4", "--pp", "2", "--sequence-parallel", "--zero-stage", "1")
Golden = Callable[[str, str], None]


def test_version() -> None:
    assert meshwise("--version").out == f"meshwise {__version__}\n"


def test_help_loads_no_heavy_library() -> None:
    """What makes a cold start quick; `python -m benchmarks.speed` times it."""
    code = (
        "import sys; from meshwise.__main__ import run; run(['--help']); "
        "print([name for name in ('numpy', 'scipy', 'pydantic', 'matplotlib', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("command", ["", "plan", "estimate", "simulate", "validate", "calibrate", "score", "profiles"])
def test_every_command_has_help(command: str) -> None:
    result = meshwise(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert "Usage: meshwise" in result.out


def test_help_names_every_choice() -> None:
    shown = meshwise("estimate", "--help").out
    assert all(name in shown for name in (*SCHEDULE_NAMES, *(policy.name.lower() for policy in Recompute)))


def test_estimate_golden(golden: Golden) -> None:
    golden("estimate.txt", meshwise("estimate", *LLAMA, *SPLIT).out)


def test_plan_golden(golden: Golden) -> None:
    result = meshwise("plan", *LLAMA, "--top", "4", "--max-micro-batch", "2")
    assert (result.code, result.err) == (0, "")
    golden("plan.txt", result.out)


def test_no_plan_fits_golden(golden: Golden) -> None:
    result = meshwise("plan", "--model", "llama3.1-405b", "--cluster", "a10", "--devices", "4")
    assert (result.code, result.err) == (3, "")
    golden("no_plan_fits.txt", result.out)


def test_profile_golden(golden: Golden) -> None:
    golden("profile.txt", meshwise("profiles", "show", "h100-sxm").out)


def test_estimate_json_has_the_promised_keys() -> None:
    answer = json.loads(meshwise("estimate", *LLAMA, *SPLIT, "--json").out)
    assert answer["schema_version"] == 1
    assert {
        "plan", "step_seconds", "interval", "tokens_per_second", "tokens_per_second_per_device",
        "model_flops_per_second_per_device", "mfu", "breakdown_seconds", "memory_bytes", "sources",
    } <= set(answer)  # fmt: skip
    assert set(answer["plan"]) == set(PLAN_FIELDS)
    assert set(answer["breakdown_seconds"]) == set(PARTS)
    assert sum(answer["breakdown_seconds"].values()) == pytest.approx(answer["step_seconds"])
    memory = dict(answer["memory_bytes"])
    capacity, usable, peak = memory.pop("capacity"), memory.pop("usable"), memory.pop("peak")
    upper, reserved, allocated = memory.pop("upper"), memory.pop("reserved"), memory.pop("allocated")
    assert usable <= capacity
    assert sum(memory.values()) == pytest.approx(peak)
    assert allocated <= reserved <= peak <= upper
    assert answer["fits"] == (peak <= usable)
    assert answer["fit"] in ("fits", "risky", "does not fit")
    stages = answer["memory_bytes_by_stage"]
    assert len(stages) == answer["plan"]["pp"]
    assert max(stage["peak"] for stage in stages) == pytest.approx(peak)
    assert answer["memory_tensors"] is None
    assert answer["tokens_per_second"] * answer["step_seconds"] == pytest.approx(64 * 8192)
    assert all(source["source"] for source in answer["sources"])


def test_estimate_lists_every_tensor_on_request() -> None:
    answer = json.loads(meshwise("estimate", *LLAMA, *SPLIT, "--memory", "--json").out)
    listed = sum(item["num_bytes"] for item in answer["memory_tensors"])
    assert listed == pytest.approx(answer["memory_bytes"]["peak"])
    assert "softmax statistics" in meshwise("estimate", *LLAMA, *SPLIT, "--memory").out


def test_plan_json_is_ranked_and_agrees_with_estimate_json() -> None:
    answer = json.loads(meshwise("plan", *LLAMA, "--top", "3", "--max-micro-batch", "1", "--json").out)
    steps = [candidate["simulated"]["step_seconds"] for candidate in answer["candidates"]]
    assert len(steps) == 3
    assert steps == sorted(steps)
    best = answer["candidates"][0]
    switches = {name: value for name, value in best["plan"].items() if isinstance(value, bool)}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in best["plan"].items() if name not in switches]
    flags += [f"--{'' if value else 'no-'}{name.replace('_', '-')}" for name, value in switches.items()]
    again = json.loads(meshwise("estimate", *LLAMA, *flags, "--json").out)
    assert {key: best[key] for key in ("plan", "step_seconds", "memory_bytes")} == {
        key: again[key] for key in ("plan", "step_seconds", "memory_bytes")
    }


def test_fix_holds_fields() -> None:
    fixed = ("--fix", "tp=2", "--fix", "recompute=full", "--no-simulate", "--json")
    answer = json.loads(meshwise("plan", *LLAMA, *fixed).out)
    assert answer["candidates"]
    assert {(one["plan"]["tp"], one["plan"]["recompute"]) for one in answer["candidates"]} == {(2, "full")}
    assert {one["simulated"] for one in answer["candidates"]} == {None}


def test_a_saved_plan_is_simulated_and_not_overwritten(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    asked = ("plan", *LLAMA, "--top", "1", "--max-micro-batch", "1", "--save", plan)
    assert meshwise(*asked).code == 0
    saved = plan.read_text()
    refused = meshwise(*asked)
    assert not faults(refused)
    assert "exists already" in refused.err
    assert plan.read_text() == saved
    assert meshwise(*asked, "--force").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]

    gantt, trace = tmp_path / "step.png", tmp_path / "step.json"
    played = meshwise("simulate", plan, "--gantt", gantt, "--trace", trace, "--json")
    assert (played.code, played.err) == (0, "")
    answer = json.loads(played.out)
    assert answer["simulated"]["step_seconds"] == pytest.approx(answer["estimated"]["step_seconds"], rel=0.05)
    assert sum(answer["simulated"]["breakdown_seconds"].values()) == pytest.approx(answer["simulated"]["step_seconds"])
    assert gantt.read_bytes().startswith(b"\x89PNG")
    assert json.loads(trace.read_text())["traceEvents"]


def test_every_profile_of_the_catalog_loads() -> None:
    result = meshwise("profiles", "check", "--json")
    assert (result.code, json.loads(result.out)["faults"]) == (0, [])


def test_check_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = 'x'\nvendor = 'y'\nkind = 'gpu'\npeak_tflops = { bf16 = -1 }\n")
    result = meshwise("profiles", "check", tmp_path / "bad.toml")
    assert result.code == 2
    assert "peak_flops_per_second.bf16 must be greater than 0, got" in result.out
    assert "source is missing" in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nope",), "No such command 'nope'"),
        (("plan", "--devices", "many"), "--devices"),
        (("plan",), "model: none given"),
        (("plan", "--model", "lama3-70b", "--cluster", "dgx-h100"), "close names: llama3-70b"),
        (("plan", "--model", "llama3-70b", "--cluster", "dgx-h10"), "close names: dgx-h100"),
        (("plan", "--model", "llama3-70b", "--cluster", "dgx-h100", "--software", "megatron"), "close names: megatron"),
        (("plan", *LLAMA[:4], "--devices", "63"), "the nearest are 56 and 64"),
        (("plan", *LLAMA, "--fix", "tp"), "write FIELD=VALUE"),
        (("plan", *LLAMA, "--fix", "warp=9"), "with a field out of dp"),
        (("plan", *LLAMA, "--fix", "schedule=zigzag"), "schedule must be 'gpipe'"),
        (("plan", *LLAMA, "--fix", "tp=0"), "tp must be greater than or equal to 1, got 0"),
        (("plan", *LLAMA, "--top", "0"), "--top"),
        (("plan", *LLAMA, "--save", "nowhere/plan.toml"), "there is no folder nowhere"),
        (("plan", *LLAMA, "--save", "plan.json"), "the name must end in .toml"),
        (("plan", *LLAMA, "--precision", "fp7"), "'mxfp8' or 'nvfp4', got 'fp7'"),
        (("plan", "missing.toml"), "missing.toml: cannot be read: No such file"),
        (("estimate", *LLAMA, "--tp", "3"), "does not divide 16 devices"),
        (("estimate", *LLAMA, "--dp", "3", "--tp", "4"), "the product must equal it"),
        (("estimate", *LLAMA, "--pp", "0"), "pp must be greater than or equal to 1, got 0"),
        (("estimate", *LLAMA, "--tp", "-2"), "tp must be greater than or equal to 1, got -2"),
        (("estimate", *LLAMA, "--pp", "4", "--vp", "5", "--layout", "even"), "does not divide the 32 layers"),
        (("estimate", *LLAMA, "--tp", "2", "--ep", "2"), "has none; leave both at 1"),
        (("estimate", *LLAMA, "--micro-batch", "7"), "is not a multiple of dp*micro_batch"),
        (("simulate", *LLAMA, "--gantt", "step.bmp"), "must end in .png or .svg or .pdf"),
        (("simulate", *LLAMA, "--global-batch", "1000000000"), "actions to simulate, and 5,000,000 are allowed"),
        (("score", "training", "missing.csv"), "missing.csv: cannot be read"),
        (("profiles", "show", "h100-sxn"), "close names"),
        (("profiles", "list", "gizmos"), "'gizmos' is not one of accelerators"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = meshwise(*arguments)
    assert not faults(result)
    assert says in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["plan", "estimate", "simulate", "validate"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.toml", "[job"),
        ("job.json", '{"job": '),
        ("job.json", "[" * 100_000),
        ("job.toml", "[job]\nmodel = 3"),
        ("job.toml", "\x00\x01"),
        ("job.toml", "[job]\nmodel = 'llama3-8b'\ncluster = 'dgx-h100'\nglobal_batch = nan"),
        ("job.toml", "[job]\nmodel = 'missing.json'\ncluster = 'dgx-h100'"),
    ],
)
def test_a_malformed_file_is_one_sentence_with_its_name(command: str, name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    result = meshwise(command, path)
    assert not faults(result)
    assert str(tmp_path) in result.err


@pytest.mark.parametrize("command", ["plan", "estimate", "simulate", "validate"])
def test_a_file_of_100_megabytes_is_refused(command: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    assert not faults(meshwise(command, path))


def test_an_interruption_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.choose.search.search", interrupted)
    result = meshwise("plan", *LLAMA)
    assert (result.code, result.out) == (130, "")
    assert "Traceback" not in result.err


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "meshwise", "profiles", "list"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_estimate_explains_itself(tmp_path: Path) -> None:
    picture = tmp_path / "losses.svg"
    said = meshwise("estimate", *LLAMA, *SPLIT, "--explain", "--plot", picture)
    assert said.code == 0, said.err
    assert "model FLOPs at the datasheet's peak" in said.out
    assert "scale-out bandwidth" in said.out
    assert "<svg" in picture.read_text()
    found = json.loads(meshwise("estimate", *LLAMA, *SPLIT, "--explain", "--json").out)
    assert sum(loss["seconds"] for loss in found["losses"]) == pytest.approx(found["step_seconds"], rel=1e-7)
    assert faults(meshwise("estimate", *LLAMA, *SPLIT, "--plot", picture)) == []
