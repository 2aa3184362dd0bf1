"""Closed forms of serving against the simulator and against theory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.serving import engine_prices
from planner.cost.serving_load import Lengths, closed_loop, most_requests_per_second, open_loop, replica_curve
from planner.cost.slots import erlang_c
from planner.work.iteration import ServedShard
from profiles import catalog
from profiles.engine import EngineRecord
from simulator.serving.play import play
from simulator.serving.requests import ClosedLoop, Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from tests.linear_prices import LinearPrices

ENGINE = EngineRecord(name="test", source="made for a test", library="vllm", front_end_seconds=0.01)
LENGTHS = Lengths(1000.0, 100.0)
SPREAD = ServedShard(attention_dp=8.0, ep=8.0, library="trtllm", weights="fp8_block", kv_dtype="fp8")


def curve(engine: EngineRecord = ENGINE, *, kv_tokens: float = 1e7, max_sequences: int = 256):
    return replica_curve(LinearPrices(), 1, kv_tokens, 8192, max_sequences, engine, LENGTHS)


def played(engine: EngineRecord, arrivals, loop=None):
    spec = ReplicaSpec((LinearPrices(),), 10_000_000, engine)
    count = len(arrivals)
    requests = Requests(arrivals, np.full(count, 1000), np.full(count, 100))
    return play(requests, [Deployment(PoolSpec(spec))], closed_loop=loop)


@pytest.mark.parametrize(("rate", "ahead"), [(0.05, False), (0.5, False), (1.5, False), (1.5, True)])
def test_agrees_with_the_simulator_at_low_load(rate: float, ahead: bool) -> None:
    """Means of both times within 2 %."""
    gaps = np.random.default_rng(0).exponential(1.0 / rate, 6000)
    engine = ENGINE.model_copy(update={"schedules_ahead": ahead})
    simulated, found = played(engine, np.cumsum(gaps)), open_loop(curve(engine), rate)
    assert float(found.ttft_seconds) == pytest.approx(simulated.ttft_seconds.mean(), rel=0.02)
    assert float(found.tpot_seconds) == pytest.approx(np.nanmean(simulated.tpot_seconds), rel=0.02)
    assert float(found.e2e_seconds) == pytest.approx(simulated.e2e_seconds.mean(), rel=0.02)


@pytest.mark.parametrize("clients", [1, 2, 8])
def test_agrees_with_a_closed_loop(clients: int) -> None:
    """Throughput within 3 % where the first wave weighs little."""
    simulated = played(ENGINE, np.zeros(200 * clients), ClosedLoop(clients))
    rate = float(closed_loop(curve(), float(clients)).output_tokens_per_second)
    assert rate == pytest.approx(100.0 * 200 * clients / simulated.duration_seconds, rel=0.03)


@given(slow=st.floats(0.01, 3.0), factor=st.floats(1.01, 3.0))
def test_load_only_makes_it_worse(slow: float, factor: float) -> None:
    """More requests: later first tokens, slower tokens, more of them running; Little's law holds."""
    less, more = open_loop(curve(), slow), open_loop(curve(), slow * factor)
    assert float(less.tpot_seconds) <= float(more.tpot_seconds) * (1.0 + 1e-9)
    assert not less.is_stable or float(less.ttft_seconds) <= float(more.ttft_seconds) * (1.0 + 1e-9)
    if less.is_stable:
        assert float(less.num_running) == pytest.approx(slow * 99.0 * float(less.tpot_seconds), rel=1e-3)


def test_groups_run_prompts_side_by_side() -> None:
    """A pool of prompts with eight groups takes up to eight times the rate of one, and is no slower when idle."""
    engine = ENGINE.model_copy(update={"library": "trtllm"})
    prices = engine_prices(catalog.model("deepseek-v3"), SPREAD, catalog.cluster("b200-sxm", 8), engine)
    one, eight = (
        replica_curve(prices, 1, 1e7, 65_536, 256, engine, Lengths(4000.0, 1.0), num_groups=groups) for groups in (1, 8)
    )
    assert 2.0 < most_requests_per_second(eight) / most_requests_per_second(one) <= 8.0
    idle = [float(open_loop(curve, 1e-3).ttft_seconds) for curve in (one, eight)]
    assert idle[0] == pytest.approx(idle[1], rel=1e-2)


def test_broadcasts_over_rates() -> None:
    """One rate or many: the same."""
    rates = np.array([0.1, 1.0, 5.0, 500.0])
    many = open_loop(curve(), rates)
    assert many.tpot_seconds.tolist() == [float(open_loop(curve(), rate).tpot_seconds) for rate in rates]
    assert many.is_stable.tolist() == [True, True, True, False]
    assert np.isinf(many.ttft_seconds[-1])


def test_most_requests_under_targets() -> None:
    """Tighter targets allow less, none allows what the replica can, impossible ones nothing."""
    free, fast = most_requests_per_second(curve()), most_requests_per_second(curve(), tpot_seconds=0.008)
    assert 0.0 < fast < free
    assert bool(open_loop(curve(), 0.99 * free).is_stable)
    assert not bool(open_loop(curve(), 1.01 * free).is_stable)
    assert most_requests_per_second(curve(), ttft_seconds=0.001) == 0.0
    assert most_requests_per_second(curve(kv_tokens=3000.0)) < free


def test_a_serial_front_end_is_a_queue() -> None:
    """M/D/1 at the door: rho s / (2 (1 - rho)) on top of its own time."""
    slow = ENGINE.model_copy(update={"front_end_seconds_per_request": 0.2})
    rate = 2.0
    wait = float(open_loop(curve(slow), rate).ttft_seconds - open_loop(curve(), rate).ttft_seconds)
    assert wait == pytest.approx(0.2 + 0.4 * 0.2 / (2.0 * 0.6))


def test_erlang_c_of_whole_slots() -> None:
    """Tables of Erlang's delay formula: 0.5 erlangs on one line, 1 on two, 8 on ten; the next value lies between."""
    assert erlang_c(np.array([1.0, 2.0, 10.0]), np.array([0.5, 1.0, 8.0])) == pytest.approx(
        [0.5, 1 / 3, 0.4092], rel=1e-3
    )
    assert erlang_c(10.0, 8.0) > erlang_c(10.5, 8.0) > erlang_c(11.0, 8.0)
    assert erlang_c(4.0, 4.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("num_stages", "slots"), [(1, 15), (1, 1000), (2, 48)])
def test_a_full_replica_lets_requests_wait(num_stages: int, slots: int) -> None:
    """Near saturation, with answers of uneven length: tokens to 5 %, tails within a factor of two of the simulator's,
    whether sequences are scarce or not, with a pipeline and without."""
    draw, rate, count = np.random.default_rng(1), 14.0, 6000
    outputs = np.maximum(np.rint(draw.lognormal(np.log(100.0) - 0.25, 0.7, count)), 1).astype(np.int64)
    requests = Requests(np.cumsum(draw.exponential(1.0 / rate, count)), np.full(count, 500), outputs)
    replica = ReplicaSpec((LinearPrices(),) * num_stages, 10_000_000, ENGINE, max_sequences=slots)
    simulated = play(requests, [Deployment(PoolSpec(replica))])
    lengths = Lengths(500.0, float(outputs.mean()), output_variation_fraction=float(outputs.std() / outputs.mean()))
    found = open_loop(replica_curve(LinearPrices(), num_stages, 1e7, 8192, slots, ENGINE, lengths), rate)
    assert float(found.tpot_seconds) == pytest.approx(np.nanmean(simulated.tpot_seconds), rel=0.05)
    assert 0.5 < float(found.ttft_tail_seconds) / np.quantile(simulated.ttft_seconds, 0.99) < 2.0
    assert 0.6 < float(found.tpot_tail_seconds) / np.nanquantile(simulated.tpot_seconds, 0.99) < 1.4
