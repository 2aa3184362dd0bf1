"""Calibrating this machine and running a plan on it, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import faults, meshwise

ROOT = Path(__file__).parent.parent
PLAN = ROOT / "examples" / "gpt-20m-dp2.toml"
SMALL = ("--global-batch", "2", "--micro-batch", "1", "--sequence-length", "32")
QUICK = ("--launches", "1", "--steps", "2", "--oversubscribe")


@pytest.mark.slow
def test_a_calibrated_machine_runs_a_plan(tmp_path: Path) -> None:
    machine = tmp_path / "machine.toml"
    calibrated = meshwise("calibrate", "--quick", "--output", machine)
    assert (calibrated.code, calibrated.err) == (0, "")
    assert "wrote" in calibrated.out
    refused = meshwise("calibrate", "--quick", "--output", machine)
    assert not faults(refused)

    asked = ("validate", PLAN, "--cluster", machine, *SMALL, *QUICK)
    told = meshwise(*asked)
    assert (told.code, told.err) == (0, "")
    assert "estimated  simulated  measured" in told.out
    answer = json.loads(meshwise(*asked, "--json").out)
    measured = answer["measured"]
    assert sum(measured["breakdown_seconds"].values()) > 0
    assert measured["fastest_seconds"] <= measured["step_seconds"] <= measured["slowest_seconds"]
    assert answer["speedup"]["measured"] == pytest.approx(
        answer["one_rank"]["measured_seconds"] / measured["step_seconds"]
    )
    documented = (ROOT / "docs" / "json.md").read_text()
    keys = {*answer, *measured, *answer["one_rank"]} - {"schema_version", "breakdown_seconds"}
    assert [key for key in sorted(keys) if f"`{key}`" not in documented] == []


def test_what_cannot_run_here_is_refused_before_anything_starts() -> None:
    said = meshwise("validate", "--model", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "8")
    assert not faults(said)
    both = meshwise("validate", PLAN, "--cluster", "xeon-8480", "--devices", "2", "--nproc", "1")
    assert not faults(both)
    assert "say two things" in both.err


def test_a_run_that_does_not_finish_is_no_fault_of_the_input() -> None:
    late = meshwise("validate", PLAN, "--cluster", "xeon-8480", *SMALL, *QUICK, "--steps", "10000", "--timeout", "1")
    assert late.code == 1
    assert "the run did not finish within 1 s; it stopped at rank" in late.err
    assert late.err.count("\n") == 1


@pytest.mark.slow
def test_ranks_of_torchrun_compare_a_plan_together() -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "meshwise")
    asked = ("validate", str(PLAN), "--cluster", "xeon-8480", *SMALL, "--launches", "2", "--steps", "2", "--json")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        (*torchrun, *asked), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["one_rank"]["measured_seconds"] > 0.0
    assert answer["measured"]["step_seconds"] > 0.0
