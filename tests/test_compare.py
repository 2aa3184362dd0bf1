"""Estimated, simulated and measured side by side: the arithmetic of launches, and one small run for real."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.breakdown import Breakdown
from planner.plan import Plan, Recompute
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.workload import TrainingJob
from validate import compare
from validate.compare import rank, single_rank
from validate.launch import LaunchError
from validate.measured import MOST_REPEATS, NOISE_FRACTION, Launch, Measurement, Peak, exclusive_seconds
from validate.runner import Runner, check_losses

MODEL = TransformerShape(
    name="gpt", source="made up for tests", family="gpt", num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=4,
    head_dim=8, ffn_size=64, vocabulary_size=64, max_sequence_length=16, num_learned_positions=16,
    norm="layer_norm", qkv_bias=True, linear_bias=True,
)  # fmt: skip
JOB = TrainingJob(model=MODEL, global_batch=4, sequence_length=16, precision="fp32")


def made(seconds: float, foreign_cores: float = 0.0, losses: tuple[float, ...] = (1.0,)) -> Launch:
    return Launch((seconds,) * 3, foreign_cores, losses, Breakdown(forward_seconds=seconds))


def measurement(*seconds: float, num_contended: int = 0) -> Measurement:
    return Measurement(tuple(made(one) for one in seconds), 0, num_contended)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return catalog.cluster("l40s", num_devices=2)


def test_a_measurement_is_the_median_of_medians() -> None:
    launch = Launch((3.0, 1.0, 2.0, 9.0, 2.5), 0.0, (1.0,), Breakdown())
    assert launch.median_seconds == 2.5
    found = measurement(1.0, 3.0, 2.0)
    assert found.step_seconds == 2.0
    assert found.range_seconds == (1.0, 3.0)
    assert found.breakdown.forward_seconds == 2.0
    assert found.noise_fraction == pytest.approx(0.5)
    assert measurement(2.0, 2.0).noise_fraction == NOISE_FRACTION


@pytest.mark.parametrize(
    ("estimated", "measured", "told"),
    [
        ((1.0, 2.0), (1.1, 1.9), "confirmed"),
        ((2.0, 1.0), (1.1, 1.9), "wrong"),
        ((2.0, 1.0), (1.0, 1.04), "tie"),
        ((1.0, 1.01, 3.0), (1.02, 1.0, 2.0), "confirmed"),
        ((1.0, 3.0, 2.0), (1.0, 2.0, 3.0), "wrong"),
    ],
)
def test_a_ranking_counts_differences_beyond_the_noise(
    estimated: tuple[float, ...], measured: tuple[float, ...], told: str
) -> None:
    assert rank(estimated, measured, 0.05) == told


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=6), st.floats(0.0, 0.5))
def test_measurements_never_contradict_themselves(seconds: list[float], noise: float) -> None:
    assert rank(seconds, seconds, noise) in ("confirmed", "tie")
    assert rank([-value for value in seconds], seconds, noise) in ("wrong", "tie")


def test_nested_spans_are_taken_from_what_they_lie_in() -> None:
    spans = [("forward", 0.0, 10.0), ("tp", 2.0, 3.0), ("tp", 5.0, 7.0), ("backward", 10.0, 15.0), ("tp", 11.0, 12.0)]
    assert exclusive_seconds(spans) == pytest.approx({"forward": 7.0, "tp": 4.0, "backward": 4.0})


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=8), st.randoms(use_true_random=False))
def test_exclusive_seconds_cover_what_the_outer_spans_cover(pairs: list[tuple[float, float]], shuffle: object) -> None:
    spans, clock = [], 0.0
    for outside, inside in pairs:
        end = clock + outside + inside
        spans += [("forward", clock, end), ("tp", clock + outside / 2, clock + outside / 2 + inside)]
        clock = end + 1.0
    shuffle.shuffle(spans)  # type: ignore[attr-defined]
    totals = exclusive_seconds(spans)
    assert sum(totals.values()) == pytest.approx(sum(end - start for name, start, end in spans if name == "forward"))
    assert all(seconds >= -1e-9 for seconds in totals.values())


@pytest.mark.parametrize("losses", [(1.001,), (float("nan"),)])
def test_other_losses_are_refused(losses: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="losses: the split's differ from those of one rank"):
        check_losses(made(1.0, losses=losses), made(1.0), JOB)
    check_losses(made(1.0, losses=(1.000001,)), made(1.0), JOB)


def launches_in_turn(monkeypatch: pytest.MonkeyPatch, launches: list[Launch]) -> Runner:
    monkeypatch.setattr(Runner, "timed", lambda self, plan: launches.pop(0))
    return Runner(JOB, 0, 1, "cpu", 60.0, False, None, num_launches=2)


def test_a_disturbed_launch_is_run_again_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = made(1.0, foreign_cores=0.9)
    (found,) = launches_in_turn(monkeypatch, [noisy, made(1.0), made(1.01)]).alternate([Plan()])
    assert (len(found.launches), found.num_discarded, found.num_contended) == (2, 1, 0)
    assert noisy not in found.launches


def test_a_launch_far_slower_than_the_best_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = launches_in_turn(monkeypatch, [made(1.0), made(1.5), made(1.02)]).alternate([Plan()])
    assert (found.step_seconds, found.num_discarded) == (pytest.approx(1.01), 1)


def test_on_a_busy_machine_launches_count_in_the_end_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = [made(1.0, foreign_cores=1.0) for _ in range(2 + MOST_REPEATS)]
    (found,) = launches_in_turn(monkeypatch, noisy).alternate([Plan()])
    assert not noisy
    assert (len(found.launches), found.num_discarded, found.num_contended) == (2, MOST_REPEATS, 2)


def test_a_split_with_other_losses_is_not_timed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = [made(1.0), made(0.5, losses=(2.0,)), made(1.0), made(0.5, losses=(2.0,))]
    with pytest.raises(ValueError, match="it computes something else"):
        launches_in_turn(monkeypatch, launches).alternate([Plan(), Plan(dp=2)])
    assert len(launches) == 2


def test_one_rank_does_the_same_step() -> None:
    plan = Plan(dp=2, pp=2, micro_batch=2, recompute=Recompute.FULL)
    assert single_rank(plan) == Plan(micro_batch=2, recompute=Recompute.FULL)


@pytest.mark.parametrize("plan", [Plan(dp=2), Plan(tp=2), Plan(pp=2)], ids=str)
def test_a_plan_three_times(plan: Plan, cluster: Cluster) -> None:
    pytest.importorskip("torch")
    told: list[tuple[str, int, int]] = []
    found = compare.validate_plan(
        JOB, plan, cluster, catalog.software("pytorch-eager-cpu"), num_launches=1, num_steps=2, num_warmup=1,
        device="cpu", timeout_seconds=120, oversubscribe=True, on_progress=lambda *progress: told.append(progress),
    )  # fmt: skip
    assert found.estimated.step_seconds > 0.0
    assert found.simulated.step_seconds > 0.0
    breakdown = found.measured.breakdown
    assert breakdown.step_seconds == pytest.approx(max(found.measured.launches[0].step_seconds), rel=0.1)
    assert breakdown.forward_seconds > 0.0
    assert breakdown.backward_seconds > 0.0
    assert (breakdown.tp_seconds > 0.0) == (plan.tp > 1)
    assert (breakdown.dp_seconds > 0.0) == (plan.dp > 1)
    assert (breakdown.idle_seconds > 0.0) == (plan.pp > 1)
    assert 0.0 < found.measured_peak.allocated_bytes < (found.measured_peak.resident_bytes or 0.0)
    assert found.measured_speedup > 0.0
    assert "ranking against one rank" in found.verdict
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_what_cannot_run_is_refused_before_anything_starts(cluster: Cluster) -> None:
    stack = catalog.software("pytorch-eager-cpu")
    with pytest.raises(ValueError, match="etp: validate runs whole experts"):
        compare.validate_plan(JOB, Plan(dp=2, etp=2), cluster, stack)


def test_a_run_that_failed_goes_on_from_its_launches(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, tmp_path: Path
) -> None:
    asked: list[Plan] = []

    def timed(self: Runner, plan: Plan) -> Launch:
        asked.append(plan)
        if len(asked) == 3:
            raise LaunchError("rank 1 failed in 'step 2': it was ended by SIGKILL")
        return made(1.0)

    def run() -> compare.Comparison:
        return compare.validate_plan(
            JOB,
            Plan(dp=2),
            cluster,
            catalog.software("pytorch-eager-cpu"),
            num_launches=2,
            output=tmp_path / "run.json",
        )

    monkeypatch.setattr(Runner, "_timed", timed)
    monkeypatch.setattr(Runner, "_peak", lambda self, plan, stack: Peak(1e6, 2e6))
    with pytest.raises(LaunchError):
        run()
    assert list(tmp_path.iterdir()) == [tmp_path / ".run.json.measured"]
    assert run().measured.step_seconds == 1.0
    assert asked == [Plan(), Plan(dp=2), Plan(), Plan(), Plan(dp=2)]
    assert not list(tmp_path.iterdir())
