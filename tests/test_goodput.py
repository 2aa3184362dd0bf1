"""The useful share of a long run: theory, limits, and the same found by playing events."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from planner.cost.goodput import Checkpoints, Interruptions, best_interval_seconds, checkpoint_bytes, goodput
from profiles import catalog
from profiles.software import default_stack
from profiles.units import DAY, HOUR, MINUTE, TERA
from profiles.workload import TrainingJob
from simulator.faults import LongRun, Nodes, play_long_run
from simulator.repeat import Journal, repeat

means = st.floats(HOUR, 30 * DAY)
short = st.floats(1.0, HOUR)


@given(means, short, st.floats(MINUTE, 4 * HOUR), short, short)
def test_shares_sum_to_one_and_lie_between(mean: float, restart: float, interval: float, stall: float, write: float):
    parts = goodput(Interruptions(mean, restart), Checkpoints(interval, stall, write)).parts()
    assert sum(parts.values()) == pytest.approx(1.0, abs=1e-9)
    assert all(0.0 <= share <= 1.0 for share in parts.values())


@given(means, short, st.floats(MINUTE, 4 * HOUR), short, st.floats(1.01, 3.0))
def test_rarer_interruptions_and_quicker_restarts_never_hurt(
    mean: float, restart: float, interval: float, stall: float, better: float
):
    def useful(stops: Interruptions, saves: Checkpoints) -> float:
        return float(goodput(stops, saves).useful_fraction)

    saves = Checkpoints(interval, stall)
    base = useful(Interruptions(mean, restart), saves)
    assert useful(Interruptions(mean * better, restart), saves) >= base
    assert useful(Interruptions(mean, restart / better), saves) >= base
    assert useful(Interruptions(mean, restart), Checkpoints(interval, stall / better)) >= base
    assert useful(Interruptions(mean, restart), Checkpoints(interval, stall, stall)) <= base


@given(means, st.floats(0.5, 600.0))
def test_the_best_interval_is_the_maximum(mean: float, stall: float):
    stops = Interruptions(mean, 300.0)
    found = float(best_interval_seconds(stops, stall))
    searched = minimize_scalar(
        lambda logarithm: -float(goodput(stops, Checkpoints(np.exp(logarithm), stall)).useful_fraction),
        bounds=(np.log(found) - 2.0, np.log(found) + 2.0), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert found == pytest.approx(np.exp(searched.x), rel=1e-3)


def test_the_best_interval_is_youngs_where_checkpoints_are_cheap():
    assert best_interval_seconds(Interruptions(10 * DAY, 60.0), 1.0) == pytest.approx(np.sqrt(2 * 10 * DAY), rel=1e-3)


def test_a_write_is_never_overtaken_by_the_next():
    assert best_interval_seconds(Interruptions(DAY, 60.0), 1.0, write_seconds=HOUR) == HOUR


def test_a_checkpoint_of_gpt3_holds_fourteen_bytes_a_parameter():
    job = TrainingJob(model=catalog.model("gpt3-175b"), global_batch=1536, sequence_length=2048)
    assert checkpoint_bytes(job, default_stack()) == pytest.approx(14 * 0.1746 * TERA, rel=0.01)


def played(rng: np.random.Generator, stops: Interruptions, saves: Checkpoints, nodes: Nodes, horizon: float):
    return play_long_run(horizon, stops, saves, nodes, rng)


@settings(max_examples=12)
@given(
    st.floats(HOUR, 12 * HOUR), st.floats(10.0, 1800.0), st.floats(300.0, 3 * HOUR), st.floats(0.0, 300.0),
    st.floats(0.0, 300.0), st.sampled_from([0.0, 0.3]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_playing_agrees_with_the_closed_form(
    mean: float, restart: float, interval: float, stall: float, write: float, manual: float, seed: int
):
    stops, saves = Interruptions(mean, restart, manual, 0.5 * mean), Checkpoints(interval, stall, write)
    runs = repeat(partial(played, stops=stops, saves=saves, nodes=Nodes(8, 0), horizon=1500 * mean), 16, seed)
    for part, expected in goodput(stops, saves).parts().items():
        shares = np.array([run.goodput.parts()[part] for run in runs])
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        assert shares.mean() == pytest.approx(float(expected), abs=6.0 * error + 1e-3)


@given(
    st.floats(HOUR, DAY), st.integers(0, 3), st.integers(1, 8), st.floats(0.0, 20 * DAY), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_time_of_a_run_is_all_accounted_for(
    mean: float, spares: int, replicas: int, repair: float, elastic: bool, seed: int
):
    nodes = Nodes(8, spares, replicas, 0.7, repair, elastic)
    run = played(np.random.default_rng(seed), Interruptions(mean, 600.0), Checkpoints(1800.0, 30.0), nodes, 60 * DAY)
    assert sum(run.seconds.values()) == pytest.approx(60 * DAY, rel=1e-9)
    assert all(seconds >= 0.0 for seconds in run.seconds.values())


def mean_useful(nodes: Nodes) -> float:
    play = partial(played, stops=Interruptions(6 * HOUR, 600.0), saves=Checkpoints(HOUR, 30.0), nodes=nodes,
                   horizon=90 * DAY)  # fmt: skip
    return float(np.mean([run.goodput.useful_fraction for run in repeat(play, 20, 7)]))


def test_spares_help_and_shrinking_beats_waiting():
    few, many = (Nodes(32, spares, 32, 1.0, 2 * DAY) for spares in (2, 64))
    elastic = Nodes(32, 2, 32, 1.0, 2 * DAY, elastic=True)
    assert mean_useful(few) < mean_useful(elastic) < mean_useful(many)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_workers_do_not_change_the_results(pool: type):
    play = partial(played, stops=Interruptions(HOUR, 60.0), saves=Checkpoints(600.0, 5.0), nodes=Nodes(4, 1),
                   horizon=30 * DAY)  # fmt: skip
    with pool(2) as executor:
        assert repeat(play, 6, 11, executor) == repeat(play, 6, 11)


def test_fleets_carry_over_to_other_sizes():
    fleet = catalog.reliability("llama3-405b")
    assert fleet.seconds_between_interruptions(16384) == pytest.approx(3.09 * HOUR, rel=0.01)
    assert fleet.seconds_between_interruptions(8192) == 2 * fleet.seconds_between_interruptions(16384)
    assert sum(fleet.causes.values()) == 419


def test_a_journal_takes_up_where_it_was_left(tmp_path: Path):
    play = partial(played, stops=Interruptions(HOUR, 60.0), saves=Checkpoints(600.0, 5.0), nodes=Nodes(4, 1),
                   horizon=10 * DAY)  # fmt: skip

    def journal(what: str = "these") -> Journal[LongRun]:
        return Journal(tmp_path / "runs.jsonl", what, asdict, lambda values: LongRun(**values))

    whole = repeat(play, 12, 3)
    first = repeat(play, 5, 3, journal=journal())
    kept = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(kept[:-20])
    counts: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        again = repeat(play, 12, 3, pool, journal=journal(), on_progress=lambda done, total: counts.append(done))
    assert again == whole
    assert again[:5] == first
    assert counts == list(range(5, 13))
    with pytest.raises(ValueError, match=r"resume: .* holds other runs"):
        repeat(play, 12, 3, journal=journal("others"))
