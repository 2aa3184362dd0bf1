"""A sweep runs every plan in turn, keeps what it measured, goes on from there, and judges the order by its noise."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli import faults, meshwise

from planner.breakdown import Breakdown
from planner.plan import Plan
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibration import quiet
from validate.calibration.journal import Journal
from validate.calibration.quiet import Probe
from validate.compare import single_rank
from validate.launch import LaunchError
from validate.measured import Launch, Peak
from validate.runnable import check_runnable
from validate.runner import Runner, setting
from validate.sweep.plans import runnable_plans
from validate.sweep.run import Sweeper

MODEL = TransformerShape(
    name="gpt", source="made up for tests", family="gpt", num_layers=4, hidden_size=32, num_heads=4, num_kv_heads=4,
    head_dim=8, ffn_size=64, vocabulary_size=64, max_sequence_length=16, num_learned_positions=16,
    norm="layer_norm", qkv_bias=True, linear_bias=True,
)  # fmt: skip
JOB = TrainingJob(model=MODEL, global_batch=8, sequence_length=16, precision="fp32")
STACK = catalog.software("pytorch-eager-cpu")
PLANS = (Plan(dp=2), Plan(tp=2), Plan(pp=2))
SECONDS = {Plan(): 2.0, Plan(dp=2): 1.0, Plan(tp=2): 1.5, Plan(pp=2): 1.02}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return catalog.cluster("l40s", num_devices=2)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Launches that are not made: every plan takes what SECONDS says; the plans that were asked for, in turn."""
    asked: list[Plan] = []

    def timed(self: Runner, plan: Plan) -> Launch:
        asked.append(plan)
        return Launch((SECONDS[plan],) * 3, 0.0, (1.0,), Breakdown(forward_seconds=SECONDS[plan]))

    monkeypatch.setattr(Runner, "_timed", timed)
    monkeypatch.setattr(Runner, "_peak", lambda self, plan, stack: Peak(1e6, 2e6))
    monkeypatch.setattr(Probe, "now", classmethod(lambda cls: cls(0.0, 1.0)))
    return asked


def sweeper(cluster: Cluster, journal: Journal | None = None) -> Sweeper:
    runner = Runner(JOB, 0, 3, "cpu", 60.0, True, None, 2, journal=journal)
    return Sweeper(JOB, cluster, STACK, PLANS, runner)


def test_plans_take_turns_and_are_judged_by_their_order(cluster: Cluster, told: list[Plan]) -> None:
    one = sweeper(cluster)
    one.run()
    assert told == [Plan(), *PLANS] * 2
    found = one.result()
    assert [outcome.plan for outcome in found.outcomes] == list(PLANS)
    assert found.speedups(found.outcomes[0])[1] == 2.0
    assert found.pairs[1] == 2  # dp and pp differ by less than the noise
    assert found.num_pending == 0
    assert not found.doubts


def test_an_interrupted_sweep_goes_on_where_it_was(cluster: Cluster, told: list[Plan], tmp_path: Path) -> None:
    def kept() -> Journal:
        one = sweeper(cluster)
        return Journal.beside(tmp_path / "sweep.json", setting(JOB, one.runner))

    def stop(what: str, done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    first = sweeper(cluster, kept())
    first.on_progress = stop
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert first.result().num_pending > 0
    before = list(told)
    told.clear()
    second = sweeper(cluster, kept())
    second.run()
    assert len(before) + len(told) == 8
    assert second.result().num_pending == 0
    told.clear()
    other = Runner(JOB, 0, 5, "cpu", 60.0, True, None, 2)
    other.journal = Journal.beside(tmp_path / "sweep.json", setting(JOB, other))
    Sweeper(JOB, cluster, STACK, PLANS, other).run()
    assert len(told) == 8  # another number of steps is another measurement


def test_a_plan_that_fails_is_named_and_the_others_go_on(
    cluster: Cluster, told: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(self: Runner, plan: Plan, stack: SoftwareStack) -> Peak:
        if plan == Plan(tp=2):
            raise LaunchError("rank 1 failed in 'step 2': it was ended by SIGKILL")
        return Peak(1e6, 2e6)

    monkeypatch.setattr(Runner, "_peak", peak)
    one = sweeper(cluster)
    one.run()
    found = one.result()
    assert [outcome.plan for outcome in found.outcomes] == [Plan(dp=2), Plan(pp=2)]
    (failure,) = found.failures
    assert failure.plan == Plan(tp=2)
    assert "SIGKILL" in failure.reason


def test_every_plan_offered_can_be_run_and_uses_all_ranks(cluster: Cluster) -> None:
    plans = runnable_plans(JOB, cluster, STACK, {})
    assert len(set(plans)) == len(plans) >= 10
    for plan in plans:
        check_runnable(JOB, plan)
        assert plan.num_ranks == 2
    assert {plan.tp for plan in runnable_plans(JOB, cluster, STACK, {"tp": 2})} == {2}
    with pytest.raises(ValueError, match="no plan"):
        runnable_plans(JOB, catalog.cluster("dgx-h100", num_devices=8), STACK, {"tp": 8})


def test_a_machine_that_was_busy_or_changed_its_speed_is_told() -> None:
    assert not quiet.doubts([Probe(0.0, 10.0), Probe(9.0, 9.5)])
    (busy,) = quiet.doubts([Probe(99.0, 10.0)])
    assert "99.0 processes" in busy
    (slower,) = quiet.doubts([Probe(0.0, 10.0), Probe(0.0, 5.0)])
    assert "2.0 times" in slower
    assert Probe.now().products_per_second > 0.0


def write_job(folder: Path) -> Path:
    path = folder / "job.toml"
    path.write_text(
        '[job]\nmodel = "gpt-20m"\ncluster = "l40s"\ndevices = 2\nglobal_batch = 4\nsequence_length = 16\n'
        'precision = "fp32"\nsoftware = "pytorch-eager-cpu"\n'
    )
    return path


def test_the_command_prints_writes_and_draws(told: list[Plan], tmp_path: Path) -> None:
    output, plot = tmp_path / "sweep.json", tmp_path / "sweep.png"
    asked: tuple[Any, ...] = (
        "validate", write_job(tmp_path), "--sweep", "--only", "dp=2", "--only", "tp=2", "--output", output,
    )  # fmt: skip
    shown = meshwise(*asked, "--plot", plot)
    assert (shown.code, shown.err) == (0, "")
    assert "of 1 pairs" in shown.out
    found = json.loads(output.read_text())
    assert [one["plan"]["dp"] for one in found["plans"]] == [2, 1]
    assert found["ranking"]["num_pairs_apart"] == 1
    assert plot.stat().st_size > 1000
    assert sorted(tmp_path.iterdir()) == sorted([output, plot, tmp_path / "job.toml"])
    assert not faults(meshwise(*asked))  # the file is there
    assert meshwise(*asked, "--force", "--json").code == 0
    assert not faults(meshwise("validate", write_job(tmp_path), "--plot", plot))
    assert not faults(meshwise("validate", write_job(tmp_path), "--sweep", "--only", "tp=3"))


@pytest.mark.slow
def test_a_sweep_runs_for_real(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked = ("--only", "dp=2", "--launches", "1", "--steps", "1", "--oversubscribe", "--json")
    found = json.loads(meshwise("validate", write_job(tmp_path), "--sweep", *asked).out)
    assert len(found["plans"]) == 1
    assert all(one["measured"]["step_seconds"] > 0.0 for one in found["plans"])


def test_one_rank_is_the_plan_without_a_split() -> None:
    assert single_rank(PLANS[0]) == Plan()
