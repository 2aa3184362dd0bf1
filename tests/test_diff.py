"""Two plans and two clusters side by side: what differs, and that the differences add up."""

import json
from pathlib import Path

import pytest

from tests.cli import faults, meshwise

JOB = ("--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "16", "--global-batch", "64")
TABLE = '[job]\nmodel = "llama3-8b"\ncluster = "dgx-h100"\ndevices = 16\nglobal_batch = 64\n'


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(TABLE + "[split]\ntp = 2\nmicro_batch = 1\n")
    return path


def test_options_change_the_second_plan(plan_file: Path) -> None:
    found = json.loads(meshwise("diff", plan_file, "--tp", "4", "--json").out)
    assert (found["first"]["plan"]["tp"], found["second"]["plan"]["tp"]) == (2, 4)
    gaps = found["difference_seconds"]
    assert sum(gap for part, gap in gaps.items() if part != "step") == pytest.approx(gaps["step"])
    assert gaps["step"] == pytest.approx(found["second"]["step_seconds"] - found["first"]["step_seconds"])


def test_a_plan_equals_itself(plan_file: Path) -> None:
    found = json.loads(meshwise("diff", plan_file, plan_file, "--json").out)
    assert set(found["difference_seconds"].values()) == {0.0}
    assert "as fast within" in meshwise("diff", plan_file, plan_file).out


def test_a_job_without_a_split_stands_for_its_best_plan(plan_file: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(TABLE)
    found = json.loads(meshwise("diff", plan_file, job, "--json").out)
    best = json.loads(meshwise("plan", job, "--no-simulate", "--top", "1", "--json").out)["candidates"][0]
    assert found["second"]["plan"] == best["plan"]
    assert found["difference_seconds"]["step"] <= 0.0
    said = meshwise("diff", plan_file, job).out
    assert "first against second" in said or "plan against job" in said


def test_clusters_are_compared_figure_by_figure() -> None:
    found = json.loads(meshwise("diff", "dgx-a100", "dgx-h100", "--json").out)
    assert found["figures"]["peak_bf16_flops_per_second"]["ratio"] == pytest.approx(989.4 / 312.0, rel=1e-3)
    assert found["figures"]["peak_fp8_flops_per_second"]["first"] is None
    assert "TFLOP/s" in meshwise("diff", "dgx-a100", "dgx-h100").out


def test_faults_are_one_sentence(plan_file: Path, tmp_path: Path) -> None:
    assert faults(meshwise("diff", "dgx-a100")) == []
    assert faults(meshwise("diff", "dgx-a100", plan_file)) == []
    assert faults(meshwise("diff", "dgx-a100", "no-such-cluster")) == []
    assert faults(meshwise("diff", tmp_path / "absent.toml", plan_file)) == []
    assert faults(meshwise("diff", plan_file, "--tp", "3")) == []


def test_plan_compares_its_winner_with_another() -> None:
    said = meshwise("plan", *JOB, "--no-simulate", "--explain", "2")
    assert said.code == 0, said.err
    assert "beside plan 2" in said.out
    found = json.loads(meshwise("plan", *JOB, "--no-simulate", "--explain", "tp=4,pp=2,micro_batch=1", "--json").out)
    assert found["compared"]["plan"]["tp"] == 4
    gap = found["compared"]["step_seconds"] - found["candidates"][0]["step_seconds"]
    assert found["compared"]["difference_seconds"]["step"] == pytest.approx(gap)
    assert gap > 0.0
    assert faults(meshwise("plan", *JOB, "--no-simulate", "--explain", "99")) == []
    assert faults(meshwise("plan", *JOB, "--no-simulate", "--explain", "tp=3")) == []
