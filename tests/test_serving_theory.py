"""Queueing theory: the simulator agrees with what is known of simple queues, within its own confidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.engine import EngineRecord
from simulator.serving.arrivals import ARRIVAL_LAWS, lengths, poisson, uniform_lengths
from simulator.serving.chains import Step, chained, whole_tasks
from simulator.serving.play import play
from simulator.serving.requests import Floats, Requests
from simulator.serving.result import Played
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from simulator.serving.statistics import Targets, mean_estimate, percentile_estimate, summary
from tests.linear_prices import LinearPrices

PROMPTS = LinearPrices(0.0, 1e-3, 0.0, 0.0)
"""A millisecond a prompt token and nothing else: requests of one token are served one after another."""
ENGINE = EngineRecord(
    name="one at a time", source="this test", library="vllm", chunks_prefill=False, reserves_full_length=True
)


def one_server(service_seconds: Floats, load: float, generator: np.random.Generator) -> Played:
    """A queue of one server: each request has its iteration to itself."""
    tokens = np.maximum(np.rint(service_seconds * 1000.0), 1.0).astype(np.int64)
    rate = load / float(np.mean(tokens) * 1e-3)
    requests = Requests(poisson(rate, len(tokens), generator), tokens, np.ones(len(tokens), dtype=np.int64))
    replica = ReplicaSpec((PROMPTS,), 10**9, ENGINE, token_budget=1, max_sequences=10**6)
    return play(requests, [Deployment(PoolSpec(replica))])


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize("law", ["M/M/1", "M/D/1"])
def test_waiting_time_of_simple_queues(law: str, load: float) -> None:
    """Mean time in the system by Pollaczek and Khinchine lies in the interval of the simulation's mean."""
    generator = np.random.default_rng(7)
    mean = 0.2
    service = generator.exponential(mean, 40_000) if law == "M/M/1" else np.full(40_000, mean)
    played = one_server(service, load, generator)
    squares = 2.0 if law == "M/M/1" else 1.0
    expected = mean * (1.0 + load * squares / (2.0 * (1.0 - load)))
    found = mean_estimate(played.e2e_seconds)
    assert found.low < expected < found.high
    assert found.high - found.low < 0.25 * expected


def test_percentiles_of_an_exponential_sojourn() -> None:
    """Time in M/M/1 is exponential: its percentiles lie in their intervals too."""
    generator = np.random.default_rng(11)
    load, mean = 0.5, 0.2
    played = one_server(generator.exponential(mean, 40_000), load, generator)
    for percent in (50.0, 90.0, 99.0):
        found = percentile_estimate(played.e2e_seconds, percent)
        assert found.low < -mean / (1.0 - load) * np.log(1.0 - percent / 100.0) < found.high


def test_littles_law() -> None:
    """Requests in the system, measured by the clock, are their rate times their time in it."""
    generator = np.random.default_rng(3)
    count = 4000
    requests = Requests(
        poisson(8.0, count, generator), lengths(300, 1.0, count, generator), lengths(80, 0.7, count, generator)
    )
    engine = EngineRecord(name="mixed", source="this test", library="vllm")
    played = play(requests, [Deployment(PoolSpec(ReplicaSpec((LinearPrices(),), 20_000, engine)))])
    begin, end = 50.0, requests.arrival_seconds[-1] - 50.0
    moments = generator.uniform(begin, end, 4000)
    arrived = np.searchsorted(np.sort(played.arrival_seconds), moments, side="right")
    left = np.searchsorted(np.sort(played.last_token_seconds), moments, side="right")
    inside = (played.arrival_seconds > begin) & (played.arrival_seconds < end)
    rate = inside.sum() / (end - begin)
    assert np.mean(arrived - left) == pytest.approx(rate * played.e2e_seconds[inside].mean(), rel=0.03)


@given(seed=st.integers(0, 2**32), law=st.sampled_from(sorted(ARRIVAL_LAWS)), rate=st.floats(0.1, 100.0))
def test_arrivals_keep_their_rate(seed: int, law: str, rate: float) -> None:
    """Every law gives times in order, at its mean rate."""
    options = {"period_seconds": 500.0 / rate} if law == "diurnal" else {}
    arrivals = ARRIVAL_LAWS[law](rate, 6000, np.random.default_rng(seed), **options)
    assert np.all(np.diff(arrivals) >= 0.0)
    assert 6000 / arrivals[-1] == pytest.approx(rate, rel=0.25)


def test_laws_differ_as_they_say() -> None:
    """Distances vary not at all, as much as their mean, or three times that; a diurnal rate peaks in the middle."""
    draw = {law: ARRIVAL_LAWS[law](10.0, 50_000, np.random.default_rng(1)) for law in ("fixed", "poisson", "bursty")}
    variation = {law: np.std(np.diff(times)) / np.mean(np.diff(times)) for law, times in draw.items()}
    assert variation["fixed"] == pytest.approx(0.0, abs=1e-6)
    assert variation["poisson"] == pytest.approx(1.0, rel=0.05)
    assert variation["bursty"] == pytest.approx(3.0, rel=0.1)
    day = ARRIVAL_LAWS["diurnal"](10.0, 10_000, np.random.default_rng(1), peak_ratio=2.0, period_seconds=1000.0)
    counts = np.histogram(day, bins=10, range=(0.0, 1000.0))[0]
    assert counts[4:6].sum() > 5 * counts[[0, 9]].sum()


@given(mean=st.floats(5.0, 3000.0), spread=st.floats(0.0, 1.5), seed=st.integers(0, 2**32))
def test_lengths_keep_their_mean(mean: float, spread: float, seed: int) -> None:
    """At least one token each."""
    drawn = lengths(mean, spread, 20_000, np.random.default_rng(seed))
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(mean, rel=0.1, abs=1.0)
    ranged = uniform_lengths(0.8, 1000, 20_000, np.random.default_rng(seed))
    assert 800 <= ranged.min() <= ranged.max() <= 1000
    assert ranged.mean() == pytest.approx(900.0, rel=0.01)


def test_targets_and_goodput() -> None:
    """Goodput counts requests within every target, of each tenant apart."""
    requests = Requests(np.zeros(4), np.array([10, 10, 10, 10]), np.array([1, 11, 11, 11]),
                        tenant=np.array([0, 0, 1, 1]), tenants=("a", "b"))  # fmt: skip
    played = Played(
        requests, np.zeros(4), np.array([1.0, 1.0, 3.0, np.nan]), np.array([1.0, 3.0, 4.0, np.nan]),
        np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64),
    )  # fmt: skip
    targets = Targets(ttft_seconds=2.0, tpot_seconds=0.15)
    assert targets.met(played).tolist() == [True, False, False, False]
    of_a, of_b = (summary(played, [targets] * 2, tenant=tenant) for tenant in (0, 1))
    assert (of_a.attained_fraction.value, of_b.attained_fraction.value) == (0.5, 0.0)
    assert of_a.goodput_requests_per_second == pytest.approx(1 / 4.0)
    assert of_b.num_refused == 1
    assert of_a.ttft_seconds.mean.high == np.inf


def test_steps_of_a_task_read_what_they_say() -> None:
    """Answer, question, or all of it, with the prompt of the step; whole tasks begin and end with their steps."""
    questions = Requests(np.array([0.0, 1.0]), np.array([100, 50]), np.array([10, 20]))
    steps = [
        Step(0, added_tokens=5, output_tokens=30),
        Step(1, "answer", 1),
        Step(0, "question"),
        Step(1, "all", output_tokens=2),
    ]
    found = chained(questions, np.array([0, 1]), [steps, [Step(1)]], np.random.default_rng(0))
    assert found.input_tokens.tolist() == [105, 31, 100, 100 + 30 + 10 + 10, 50]
    assert found.output_tokens.tolist() == [30, 10, 10, 2, 20]
    assert found.follower is not None
    assert found.follower.tolist() == [1, 2, 3, -1, -1]
    assert found.heads.tolist() == [0, 4]
    replica = ReplicaSpec((LinearPrices(),), 10_000, ENGINE.model_copy(update={"chunks_prefill": True}))
    played = play(found, [Deployment(PoolSpec(replica))] * 2)
    whole = whole_tasks(played)
    assert whole.arrival_seconds.tolist() == [0.0, 1.0]
    assert whole.last_token_seconds.tolist() == played.last_token_seconds[[3, 4]].tolist()
    assert np.all(np.diff(played.last_token_seconds[:4]) > 0.0)
