"""A measured plan goes into a table and comes out as the same plan, job and cluster."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from cli import faults, meshwise

from benchmarks import gpu_steps
from planner.breakdown import Breakdown
from planner.cost.estimate import estimate
from planner.plan import Plan
from planner.recompute import Recompute
from profiles import catalog
from profiles.model import TransformerShape
from profiles.units import GIB
from profiles.workload import TrainingJob
from profiles.writer import to_toml
from tests.test_calibrate import messages, samples
from validate.calibration.describe import describe
from validate.calibration.sampling import Samples
from validate.measured import Launch, Measurement, Peak
from validate.rows import Measured, append_rows, row_of
from validate.runner import Runner
from validate.runs.clusters import own_cluster
from validate.runs.resolve import resolve
from validate.runs.table import BadTable, read_runs
from validate.score.training import score_training

TODAY = date(2026, 11, 21)
MEASUREMENT = Measurement((Launch((2.0,) * 3, 0.0, (1.0,), Breakdown(forward_seconds=2.0)),), 0, 0)
PLANS = (
    Plan(dp=8, micro_batch=2),
    Plan(dp=4, tp=2, sequence_parallel=True),
    Plan(dp=2, tp=2, pp=2),
    Plan(dp=2, pp=4, schedule="gpipe", micro_batch=2),
    Plan(dp=4, pp=2, vp=2, schedule="interleaved"),
    Plan(dp=8, zero_stage=1),
    Plan(dp=8, zero_stage=3, recompute=Recompute.FULL),
    Plan(dp=8, zero_stage=3, dp_replicate=2),
    Plan(dp=4, cp=2),
)


def measured(plan: Plan, model: str = "llama3-8b") -> Measured:
    job = TrainingJob(model=catalog.model(model), global_batch=16, sequence_length=2048)
    cluster = catalog.cluster("dgx-h100", num_devices=8)
    return Measured(job, plan, cluster, MEASUREMENT, 40.0 * GIB)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_row_is_read_as_the_plan_that_was_measured(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    append_rows(path, [row_of(measured(plan), TODAY)])
    (run,) = read_runs(path)
    setting = resolve(run)
    expected = measured(plan)
    assert setting.plan == plan
    assert setting.job.model_dump(exclude={"model"}) == expected.job.model_dump(exclude={"model"})
    assert setting.cluster.tiers == expected.cluster.tiers
    assert (run.iteration_time_s, run.peak_memory_gb) == (2.0, 40.0)
    assert "2026-11-21" in run.source


def test_rows_are_added_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    append_rows(path, [row_of(measured(PLANS[0]), TODAY)])
    append_rows(path, [row_of(measured(plan), TODAY) for plan in PLANS[1:3]])
    assert len(read_runs(path)) == 3
    before = path.read_text()
    with pytest.raises(BadTable, match="already"):
        append_rows(path, [row_of(measured(PLANS[0]), TODAY)])
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(BadTable, match="header"):
        append_rows(other, [row_of(measured(PLANS[0]), TODAY)])
    assert (path.read_text(), other.read_text()) == (before, "a,b\n1,2\n")
    assert meshwise("score", "training", path).code == 0


def test_a_plan_that_no_column_describes_is_refused() -> None:
    with pytest.raises(ValueError, match="reshard_after_forward"):
        row_of(measured(Plan(dp=8, zero_stage=3, reshard_after_forward=False)), TODAY)


TINY = TransformerShape(
    name="tiny", source="made up for tests", family="gpt", num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=4,
    head_dim=16, ffn_size=128, vocabulary_size=128, max_sequence_length=32, norm="layer_norm",
)  # fmt: skip


def tiny_case() -> gpu_steps.Case:
    job = TrainingJob(model=TINY, global_batch=2, sequence_length=32, precision="fp32")
    return gpu_steps.Case(job, Plan(micro_batch=2))


def test_steps_of_one_device_are_chosen_by_what_fits() -> None:
    cluster, stack = catalog.cluster("l40s", num_devices=1), catalog.software("pytorch-eager")
    found = list(gpu_steps.cases(cluster, stack, ("gpt2", "gpt2-xl", "llama3-8b"), (512, 2048), "bf16"))
    assert {case.job.model.name for case in found} == {"gpt2", "gpt2-xl"}
    assert {case.job.sequence_length for case in found} == {512}
    assert {case.plan.recompute for case in found} == {Recompute.NONE, Recompute.FULL}


def test_steps_of_one_device_become_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Runner, "alternate", lambda self, plans: [MEASUREMENT])
    monkeypatch.setattr(Runner, "peak", lambda self, plan, stack: Peak(1e9, 2e9))
    path, cluster = tmp_path / "runs.csv", catalog.cluster("l40s", num_devices=1)
    cases = [tiny_case(), replace(tiny_case(), plan=Plan(micro_batch=1))]
    gpu_steps.measure(path, cluster, catalog.software("pytorch-eager"), cases, "cpu")
    assert [run.model for run in read_runs(path)] == ["tiny", "tiny"]
    assert "of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_steps_of_one_device_are_measured_for_real(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path, cluster = tmp_path / "runs.csv", catalog.cluster("l40s", num_devices=1)
    gpu_steps.measure(path, cluster, catalog.software("pytorch-eager-cpu"), [tiny_case()], "cpu")
    (run,) = read_runs(path)
    assert run.iteration_time_s
    assert run.peak_memory_gb


def test_append_is_refused_before_anything_runs(tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    table.write_text("a,b\n1,2\n")
    asked = ("validate", "--model", "gpt-20m", "--cluster", "l40s", "--devices", "1", "--precision", "fp32")
    assert not faults(meshwise(*asked, "--append", table))


def test_runs_of_a_calibrated_machine_are_scored_on_its_own_file(tmp_path: Path) -> None:
    machine, table = tmp_path / "machine.toml", tmp_path / "runs.csv"
    machine.write_text(to_toml(describe(Samples(([samples(), samples()],), ([messages(), messages()],)), 2)))
    model = catalog.model("gpt-20m")
    job = TrainingJob(model=model, global_batch=8, sequence_length=128, precision="fp32")
    mine = Measured(job, Plan(dp=2, micro_batch=2), catalog.cluster(machine), MEASUREMENT, 0.4 * GIB)
    append_rows(table, [row_of(mine, TODAY)])
    assert score_training(table).overall.n == 0
    (scored,) = score_training(table, own=own_cluster(machine)).scored
    expected = estimate(mine.plan, job, catalog.cluster(machine, 2), catalog.software("pytorch-eager-cpu"))
    assert scored.predicted_seconds == pytest.approx(float(expected.step_seconds))
    said = meshwise("score", "training", table, "--cluster", machine, "--json")
    assert json.loads(said.out)["overall"]["n"] == 1
    assert not faults(meshwise("score", "kernels", "gemm.csv", "--cluster", machine))
