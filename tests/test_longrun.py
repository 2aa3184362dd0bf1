"""Weeks of a job from the command line."""

import json
from pathlib import Path

import pytest

from tests.cli import faults, meshwise

JOB = ["--model", "llama3-70b", "--cluster", "dgx-h100", "--devices", "64", "--tp", "4", "--pp", "2", "--global-batch",
       "64", "--zero-stage", "1"]  # fmt: skip


def test_the_closed_form_stands_beside_the_played_runs():
    answer = meshwise("simulate", *JOB, "--days", "30", "--runs", "40", "--seed", "3", "--spares", "8", "--json")
    found = json.loads(answer.out)["long_run"]
    assert sum(found["closed_form_fractions"].values()) == pytest.approx(1.0)
    assert sum(part["mean"] for part in found["simulated_fractions"].values()) == pytest.approx(1.0)
    useful = found["simulated_fractions"]["useful"]
    assert useful["low"] <= found["closed_form_fractions"]["useful"] <= useful["high"]
    expected = 30 * 86400 / found["seconds_between_interruptions"]
    assert found["num_interruptions"]["low"] <= expected <= found["num_interruptions"]["high"]


def test_the_same_seed_prints_the_same():
    runs = [meshwise("simulate", *JOB, "--days", "9", "--runs", "5", "--seed", "4").out for _ in range(2)]
    assert runs[0] == runs[1]
    assert "9 days" in runs[0]


def test_stragglers_and_restarts_by_hand_take_their_share_together():
    slow = [*JOB, "--days", "9", "--runs", "9", "--fleet", "opt-175b", "--network", "flows", "--slow-host", "0=0.5"]
    found, even = (json.loads(meshwise("simulate", *flags, "--json").out) for flags in (slow, slow[:-2]))
    assert found["long_run"] == even["long_run"]
    assert found["simulated"]["step_seconds"] > even["simulated"]["step_seconds"]
    assert found["long_run"]["manual_restart_seconds"] > found["long_run"]["restart_seconds"]
    lines = [next(line for line in meshwise("simulate", *flags).out.splitlines() if line.startswith("steps of"))
             for flags in (slow, slow[:-2])]  # fmt: skip
    assert lines[0] != lines[1]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--spares", "3"], "--days"),
        (["--days", "0"], "days"),
        (["--days", "3", "--checkpoint-minutes", "-1"], "checkpoint_minutes"),
        (["--days", "3", "--fleet", "nobody"], "nobody"),
        (["--days", "3", "--async-stall-seconds", "-2"], "async_stall_seconds"),
        (["--days", "3", "--async-stall-seconds", "nan"], "async_stall_seconds"),
        (["--days", "3", "--async-stall-seconds", "1", "--checkpoint-minutes", "0.001"], "checkpoint_minutes"),
        (["--days", "3", "--peer-stall-seconds", "1"], "peer-minutes"),
        (["--days", "3", "--peer-minutes", "0.0001"], "peer_minutes"),
        (["--days", "3", "--switch-share", "2"], "switch_share"),
        (["--days", "3", "--scheduler", "tcp://127.0.0.1:1"], "scheduler"),
    ],
)
def test_flags_without_sense_are_refused(flags: list[str], names: str):
    result = meshwise("simulate", *JOB, *flags)
    assert not faults(result)
    assert names in result.err


def test_workers_and_taken_up_runs_change_nothing(tmp_path: Path):
    asked = ["simulate", *JOB, "--days", "20", "--runs", "6", "--peer-minutes", "1", "--switch-share", "0.1", "--json"]
    plain = meshwise(*asked).out
    assert meshwise(*asked, "--workers", "2").out == plain
    for _ in range(2):
        assert meshwise(*asked, "--resume", tmp_path / "runs.jsonl").out == plain
    assert json.loads(plain)["long_run"]["peer_interval_seconds"] == 60.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries that the cluster is made of
def test_a_dask_cluster_plays_the_same_runs(tmp_path: Path):
    dask = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    asked = ["simulate", *JOB, "--days", "20", "--runs", "12", "--json"]
    plain = meshwise(*asked, "--workers", "2").out
    journal = tmp_path / "runs.jsonl"
    with dask.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        shared = [*asked, "--scheduler", cluster.scheduler_address, "--resume", journal]
        assert meshwise(*shared).out == plain
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]))
        assert meshwise(*shared).out == plain
