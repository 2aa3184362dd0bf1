"""What the benchmark of the test bed makes of its measurements; the measuring itself needs a quiet machine."""

import pytest

from benchmarks.test_bed import FOUR_HOSTS, NETWORKS, WORKS, Outcome, alternatives, split, summary
from profiles import catalog


def outcome(measured: dict[str, float], predicted: dict[str, float], noise: float = 0.02) -> Outcome:
    return Outcome("1 Gb/s", "many tokens", predicted, measured, noise, 0)


def test_regret_is_what_the_choice_loses() -> None:
    wrong = outcome({"dp2 mb4": 1.0, "pp2 mb1 1f1b": 0.8}, {"dp2 mb4": 0.9, "pp2 mb1 1f1b": 1.0})
    assert (wrong.chosen, wrong.best) == ("dp2 mb4", "pp2 mb1 1f1b")
    assert wrong.regret_fraction == pytest.approx(0.25)
    assert not wrong.is_tie
    assert outcome({"a": 1.0, "b": 0.97}, {"a": 0.9, "b": 1.0}).is_tie
    assert wrong.errors == pytest.approx({"dp2 mb4": -0.1, "pp2 mb1 1f1b": 0.25})


def test_the_summary_counts_every_run_and_split() -> None:
    right = outcome({"dp2 mb4": 1.0, "tp2 mb4": 2.0}, {"dp2 mb4": 1.1, "tp2 mb4": 2.2})
    wrong = outcome({"dp2 mb4": 1.0, "tp2 mb1": 0.5}, {"dp2 mb4": 0.4, "tp2 mb1": 0.5})
    text = summary([right, wrong])
    assert "2 regimes, 4 runs: mean step error 20.0%" in text
    assert "regret of the first choice: mean 50.0%" in text
    assert "win somewhere: dp2, tp2" in text
    assert split("dp2 tp2 mb1") == "dp2 tp2"


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_every_regime_lets_three_splits_compete(work: object) -> None:
    cluster = catalog.cluster("dgx-h100", 4)
    job = next(one for one in WORKS if one is work).job()
    two, four = (alternatives(job, ranks, cluster.model_copy(update={"num_devices": ranks})) for ranks in (2, 4))
    assert {split(name) for name in two} >= {"dp2", "tp2", "pp2"}
    assert all(plan.num_ranks == 4 for plan in four.values())


def test_there_are_twelve_regimes_of_two_hosts() -> None:
    assert len(NETWORKS) * len(WORKS) >= 12
    assert {network.num_hosts for network in NETWORKS} == {2}
    assert FOUR_HOSTS.num_hosts == 4
