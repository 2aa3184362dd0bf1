"""Measured steps change a profile where they say something, and leave it where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.collectives import message_seconds
from planner.cost.estimate import estimate
from planner.cost.kernels import kernel_seconds
from planner.plan import Plan
from planner.work.ops import Elementwise, Gemm
from profiles import catalog
from profiles.cluster import ClusterSpec
from profiles.workload import TrainingJob
from profiles.writer import to_toml
from tests.cli import meshwise
from validate.calibration.fit import Origin
from validate.calibration.recalibrate import STEP, Observation, observed_parts, recalibrate
from validate.calibration.scales import KERNEL_SPREADS, Scale, scaled, scales_of

ORIGIN = Origin("a machine", "2026-11-21", "a test")
BASE = catalog.cluster_spec("dgx-h100")
MODEL = catalog.model("llama2-7b")
JOB = TrainingJob(model=MODEL, global_batch=64, sequence_length=4096, precision="bf16")
STACK = catalog.software("megatron-core")
PLANS = (Plan(dp=2, tp=4), Plan(dp=8, zero_stage=1), Plan(dp=4, tp=2, micro_batch=2))


def ran(plan: Plan, spec: ClusterSpec, whole: bool = False) -> Observation:
    """A run that took exactly what `spec` predicts; `whole`: only its step was measured."""
    answer = estimate(plan, JOB, catalog.expand(spec, plan.num_ranks), STACK).breakdown
    parts = observed_parts({name: float(seconds) for name, seconds in answer.parts().items()})
    return Observation(str(plan), JOB, plan, STACK, {STEP: parts[STEP]} if whole else parts)


def factor_of(found: Any, cause: str) -> Any:
    return next(factor for factor in found.factors if factor.scale.name == cause)


def test_what_was_wrong_is_found_again() -> None:
    truth = scaled(BASE, {Scale("compute"): 1.2, Scale("transfer", "nvlink-4"): 1.3}, 8, ["bf16"], ORIGIN)
    found = recalibrate(BASE, [ran(plan, truth) for plan in PLANS], ORIGIN)
    assert factor_of(found, "compute").value == pytest.approx(1.2, rel=0.04)
    assert factor_of(found, "compute").is_found
    assert factor_of(found, "nvlink-4 transfer").value == pytest.approx(1.3, rel=0.1)
    assert not factor_of(found, "launches").is_found
    assert min(abs(error) for error in found.before.values()) > 0.08
    assert max(abs(error) for error in (found.after | found.held_out).values()) < 0.03


def test_one_step_time_is_met_but_tells_no_cause() -> None:
    truth = scaled(BASE, {Scale("compute"): 1.1}, 8, ["bf16"], ORIGIN)
    found = recalibrate(BASE, [ran(PLANS[0], truth, whole=True)], ORIGIN)
    assert abs(found.after[str(PLANS[0])]) < 0.01 < abs(found.before[str(PLANS[0])])
    assert found.held_out == {}
    assert not factor_of(found, "nvlink-4 transfer").is_found
    assert all(factor.log_spread <= factor.scale.log_spread for factor in found.factors)


def test_a_run_that_was_predicted_changes_nothing() -> None:
    found = recalibrate(BASE, [ran(PLANS[0], BASE)], ORIGIN)
    assert all(factor.value == pytest.approx(1.0, abs=1e-3) for factor in found.factors)


def test_one_odd_run_does_not_carry_the_others() -> None:
    runs = [ran(plan, BASE) for plan in PLANS]
    odd = Observation("odd", JOB, PLANS[0], STACK, {STEP: 3.0 * runs[0].seconds[STEP]})
    found = recalibrate(BASE, [*runs, odd], ORIGIN)
    assert max(abs(found.after[run.name]) for run in runs) < 0.03
    assert abs(found.after["odd"]) > 0.5


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(sorted(KERNEL_SPREADS)), st.floats(0.3, 3.0)))
def test_each_factor_multiplies_its_own_cause_alone(factors: dict[str, float]) -> None:
    before = catalog.expand(BASE, 8)
    after = catalog.expand(scaled(BASE, {Scale(name): by for name, by in factors.items()}, 8, ["bf16"], ORIGIN), 8)
    large, stream = Gemm(8192.0, 8192.0, 8192.0), Elementwise(1e10)
    for op, cause in ((large, "compute"), (stream, "memory"), (Elementwise(1e10, in_place=True), "updates")):
        ratio = float(kernel_seconds(op, after) / kernel_seconds(op, before))
        assert ratio == pytest.approx(factors.get(cause, 1.0), rel=0.15)
    assert message_seconds("all_reduce", 1e8, 8, 1, after) == message_seconds("all_reduce", 1e8, 8, 1, before)


@pytest.mark.parametrize("name", ["dgx-h100", "gb300-nvl72", "dgx-a100"])
def test_a_scaled_cluster_survives_its_file(tmp_path: Path, name: str) -> None:
    spec = catalog.cluster_spec(name)
    devices = catalog.devices_per_host(spec) * 2
    scales = scales_of(spec, devices)
    mine = scaled(spec, dict.fromkeys(scales, 2.0), devices, ["bf16"], ORIGIN)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(mine))
    before, after = catalog.cluster(name, devices), catalog.cluster(path, devices)
    for op, size in (("all_reduce", 1e9), ("all_gather", 1e3)):
        slower = message_seconds(op, size, devices, 1, after) / message_seconds(op, size, devices, 1, before)
        assert float(slower) == pytest.approx(2.0, rel=0.1)


PLAN_FILE = """
[job]
model = "llama2-7b"
cluster = "dgx-h100"
devices = 8
global_batch = 64
[split]
tp = 4
"""


def test_the_command_changes_a_profile_by_a_plan_and_its_step(tmp_path: Path) -> None:
    plan, output = tmp_path / "run.toml", tmp_path / "mine.toml"
    plan.write_text(PLAN_FILE)
    before = json.loads(meshwise("estimate", plan, "--json").out)["step_seconds"]
    asked = ("calibrate", "--from-run", plan, "--step-seconds", f"{1.1 * before}", "--output", output)
    said = meshwise(*asked)
    assert said.code == 0, said.err
    assert "-9.1%" in said.out
    assert "1 measured figure cannot tell 7 causes apart" in said.out
    after = json.loads(meshwise("estimate", plan, "--cluster", output, "--json").out)["step_seconds"]
    assert after == pytest.approx(1.1 * before, rel=0.01)
    document = json.loads(meshwise(*asked, "--force", "--json").out)
    assert document["runs"][0]["error_before_fraction"] == pytest.approx(-1 / 11, abs=1e-4)
    assert {factor["cause"] for factor in document["factors"]} >= {"compute", "nvlink-4 transfer"}
    far = meshwise("calibrate", "--from-run", plan, "--step-seconds", f"{9 * before}", "--output", output, "--force")
    assert "stays" in far.out


def test_the_command_reads_what_validate_printed(tmp_path: Path) -> None:
    plan, run, output = tmp_path / "plan.toml", tmp_path / "run.json", tmp_path / "mine.toml"
    plan.write_text(PLAN_FILE)
    answer = json.loads(meshwise("estimate", plan, "--json").out)
    parts = {name: 1.2 * seconds for name, seconds in answer["breakdown_seconds"].items()}
    measured = {"step_seconds": sum(parts.values()), "breakdown_seconds": parts, "noise_fraction": 0.05}
    run.write_text(json.dumps({"job": answer["job"], "plan": answer["plan"], "measured": measured}))
    said = meshwise("calibrate", "--from-run", run, "--output", output)
    assert said.code == 0, said.err
    assert "found" in said.out
    again = json.loads(meshwise("estimate", plan, "--cluster", output, "--json").out)
    assert again["step_seconds"] == pytest.approx(1.2 * answer["step_seconds"], rel=0.05)


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        (PLAN_FILE, (), "say how long its step took (--step-seconds)"),
        ("{", (), "not valid JSON"),
        ('{"measured": {}}', (), "model: none given"),
        ('{"measured": {"step_seconds": 1}, "job": {"model": "gpt2", "cluster": "l4"}, "plan": {}}', (), "no whole"),
        ('{"measured": {}, "job": {"model": "gpt2", "cluster": "l4"}}', ("--step-seconds", "1"), "states its own"),
    ],
)
def test_runs_that_say_too_little_or_too_much_are_refused(
    tmp_path: Path, text: str, more: tuple[str, ...], told: str
) -> None:
    path = tmp_path / ("run.toml" if text == PLAN_FILE else "run.json")
    path.write_text(text)
    refused = meshwise("calibrate", "--from-run", path, *more, "--output", tmp_path / "mine.toml")
    assert (refused.code, refused.out) == (2, "")
    assert told in refused.err
    assert not (tmp_path / "mine.toml").exists()


def test_one_kind_of_file_at_a_time(tmp_path: Path) -> None:
    for words, told in (
        (("--from-run", "a.json", "--from-nccl-tests", "b.txt"), "calibrate from one kind at a time"),
        (("--from-nccl-tests", "b.txt", "--step-seconds", "1"), "--step-seconds: belongs to a plan file"),
        (("--step-seconds", "1"), "--step-seconds: belongs to a plan file"),
        (("--from-run", "a.json", "--nproc", "2"), "--nproc: says how to measure"),
    ):
        refused = meshwise("calibrate", *words, "--output", tmp_path / "mine.toml")
        assert (refused.code, refused.out) == (2, "")
        assert told in refused.err
