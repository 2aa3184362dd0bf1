"""Continuous batching: runs taken at once are exact, memory is conserved, and each engine's rules hold."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.engine import EngineRecord
from simulator.serving.perfetto import COUNTERS, serving_events
from simulator.serving.picture import save_serving
from simulator.serving.play import Game, play
from simulator.serving.requests import ClosedLoop, Prefixes, Requests
from simulator.serving.result import Played
from simulator.serving.routers import ROUTERS
from simulator.serving.scaling import Autoscaling, Failure
from simulator.serving.sources import OpenLoop
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec, Speculation, Transfer
from simulator.serving.timeline import Timeline
from simulator.trace import write_events
from tests.linear_prices import LinearPrices

VLLM = EngineRecord(name="mixed", source="this test", library="vllm")
ENGINES = {
    "mixed": VLLM,
    "whole prompts": VLLM.model_copy(update={"chunks_prefill": False, "reserves_full_length": True}),
    "prompts first": VLLM.model_copy(update={"mixes_prefill": False, "poll_interval_iterations": 7}),
    "front end": VLLM.model_copy(
        update={"front_end_seconds": 0.02, "front_end_seconds_per_request": 0.003, "output_seconds_per_token": 4e-4}
    ),
}

HOLDS: dict[str, dict[str, float]] = {
    "none": {},
    "groups": {"balance_wait_iterations": 9},
    "gathered groups": {"balance_wait_iterations": 9, "balance_gather_iterations": 3},
    "batches": {"batch_wait_iterations": 9, "batch_wait_budget_fraction": 0.8},
}


def some_requests(seed: int, count: int = 60, rate: float = 20.0, longest: int = 300) -> Requests:
    generator = np.random.default_rng(seed)
    return Requests(
        np.cumsum(generator.exponential(1.0 / rate, count)),
        generator.integers(1, longest, count),
        generator.integers(1, 120, count),
    )


def spec(
    engine: EngineRecord = VLLM, kv_tokens: int = 100_000, prices: LinearPrices | None = None, **others: object
) -> ReplicaSpec:
    prices = prices or LinearPrices(bend_tokens=4000.0)
    return replace(ReplicaSpec((prices,), kv_tokens, engine, token_budget=256, max_sequences=32), **others)  # type: ignore[arg-type]


def one(replica: ReplicaSpec, num_replicas: int = 1, router: str = "round-robin") -> Deployment:
    return Deployment(PoolSpec(replica, num_replicas, router))


def times(played: Played) -> np.ndarray:
    return np.stack([played.arrival_seconds, played.first_token_seconds, played.last_token_seconds])


@given(
    seed=st.integers(0, 2**32),
    engine=st.sampled_from(sorted(ENGINES)),
    kv_tokens=st.sampled_from([600, 900, 4000, 100_000]),
    swap=st.sampled_from([0.0, 1e-6]),
    clients=st.sampled_from([0, 5, 40]),
    router=st.sampled_from(["round-robin", "least-loaded"]),
    hold=st.sampled_from(sorted(HOLDS)),
    ahead=st.booleans(),
)
def test_runs_are_exact(
    seed: int, engine: str, kv_tokens: int, swap: float, clients: int, router: str, hold: str, ahead: bool
) -> None:
    """Taking a run of iterations as one event gives the times of taking them one by one, preemptions included."""
    requests = some_requests(seed)
    changes = {"schedules_ahead": ahead} | (HOLDS[hold] if ENGINES[engine].mixes_prefill else {})
    tried = ENGINES[engine].model_copy(update=changes)
    groups = 4 if "balance_wait_iterations" in changes else 1
    deployment = one(spec(tried, kv_tokens, swap_seconds_per_token=swap, groups=groups), 2, router)
    loop = ClosedLoop(clients, think_seconds=0.01) if clients else None
    fast, slow = (play(requests, [deployment], closed_loop=loop, coalesces=coalesces) for coalesces in (True, False))
    np.testing.assert_allclose(times(fast), times(slow), rtol=0.0, atol=1e-9)
    np.testing.assert_array_equal(fast.num_preemptions, slow.num_preemptions)
    np.testing.assert_array_equal(fast.replica, slow.replica)


@given(seed=st.integers(0, 2**32), engine=st.sampled_from(sorted(ENGINES)), kv_tokens=st.sampled_from([600, 2000]))
def test_memory_is_conserved(seed: int, engine: str, kv_tokens: int) -> None:
    """At every event the blocks in use are those of the requests inside, and at the end there are none."""
    requests = some_requests(seed)
    source = OpenLoop(requests.arrival_seconds, requests.heads)
    game = Game(requests, [one(spec(ENGINES[engine], kv_tokens))], source, np.random.default_rng(0))
    loop = game.members[0].loop
    finish = loop.finish

    def watched(now: float) -> list[int]:
        done = finish(now)
        rows = loop.running._last.values()
        tokens = [context - (0 if loop.reserves else last - loop.running.step) - 1 for last, context in rows]
        tokens += [loop._prompt_tokens(loop.partial)] if loop.partial >= 0 and not loop.reserves else []
        assert loop.blocks.used == sum(loop.blocks.of(count) for count in tokens) <= loop.blocks.num_blocks
        assert loop.num_outstanding == loop.num_admitted + len(loop.waiting) + len(loop.inbox)
        return done

    loop.finish = watched  # type: ignore[method-assign]
    game.play()
    assert loop.blocks.used == 0
    assert loop.num_outstanding == 0
    assert np.all(np.isfinite(game.played(0).last_token_seconds))


def test_times_of_one_request_alone() -> None:
    """Two chunks of its prompt, then a token an iteration, each reading one token more."""
    prices = LinearPrices()
    requests = Requests(np.array([1.0]), np.array([300]), np.array([5]))
    played = play(requests, [one(spec())])
    first = 2 * prices.base_seconds + 300 * prices.seconds_per_prefill_token + 256 * prices.seconds_per_context_token
    decodes = [prices.base_seconds + prices.seconds_per_decode + context * prices.seconds_per_context_token
               for context in (301, 302, 303, 304)]  # fmt: skip
    assert played.ttft_seconds[0] == pytest.approx(first)
    assert played.e2e_seconds[0] == pytest.approx(first + sum(decodes))
    assert played.tpot_seconds[0] == pytest.approx(np.mean(decodes))


def test_front_end_adds_to_every_request() -> None:
    """A constant shifts all times of a lone request; requests that arrive together queue for the serial part."""
    requests = Requests(np.zeros(3), np.full(3, 10), np.full(3, 1))
    engine = VLLM.model_copy(update={"front_end_seconds": 1.0, "front_end_seconds_per_request": 0.5})
    plain, late = (play(requests, [one(spec(each))]) for each in (VLLM, engine))
    alone = LinearPrices().base_seconds + 10 * LinearPrices().seconds_per_prefill_token
    assert plain.ttft_seconds.max() < 2 * alone + 1e-2
    np.testing.assert_allclose(late.ttft_seconds, np.array([1.5, 2.0, 2.5]) + alone)


def test_requests_that_no_replica_can_hold_are_refused() -> None:
    """They have no times and are counted; a closed loop goes on without them."""
    requests = Requests(np.zeros(3), np.array([10, 5000, 10]), np.array([5, 5, 5]))
    played = play(requests, [one(spec(kv_tokens=600))], closed_loop=ClosedLoop(1))
    assert played.num_refused == 1
    assert np.isfinite(played.last_token_seconds).tolist() == [True, False, True]


@pytest.mark.parametrize(("swap", "slower"), [(0.0, False), (1e-3, True)])
def test_preemption_by_copy_costs_copies(swap: float, slower: bool) -> None:
    """Copying at a high price is slower than computing again."""
    requests = some_requests(3, rate=500.0)
    played = play(requests, [one(spec(kv_tokens=900, swap_seconds_per_token=swap))])
    again = play(requests, [one(spec(kv_tokens=900))])
    assert played.num_preemptions.sum() > 0
    assert (played.duration_seconds > again.duration_seconds) == slower


def test_closed_loop_keeps_its_concurrency() -> None:
    """Never more requests under way than clients; warm-up is left out; the ramp spaces the first wave."""
    requests = some_requests(1, count=200)
    loop = ClosedLoop(8, ramp_seconds=0.5, num_warmup=16)
    played = play(requests, [one(spec())], closed_loop=loop)
    assert played.counted.sum() == 184
    counted = played.counted
    begins, ends = played.arrival_seconds[counted], played.last_token_seconds[counted]
    under_way = [np.sum((begins <= moment) & (ends > moment)) for moment in begins]
    assert max(under_way) == 8
    np.testing.assert_allclose(np.diff(begins[:8]), 0.5)
    assert begins.min() >= played.last_token_seconds[:16].max() - 1e-12


def test_shared_prefixes_are_computed_once() -> None:
    """The second prompt with the same names skips them; where memory is short they are dropped again."""
    offsets, ids = np.array([0, 4, 8, 12]), np.array([1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8])
    requests = Requests(
        np.array([0.0, 5.0, 10.0]), np.array([70, 70, 70]), np.array([4, 4, 4]), prefixes=Prefixes(16, offsets, ids)
    )
    played = play(requests, [one(spec())])
    assert played.cached_tokens.tolist() == [0, 64, 0]
    assert played.ttft_seconds[1] < played.ttft_seconds[0]
    again = Requests(
        np.array([0.0, 5.0, 10.0]), requests.input_tokens, requests.output_tokens,
        prefixes=Prefixes(16, offsets, np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4])),
    )  # fmt: skip
    assert play(again, [one(spec(kv_tokens=96))]).cached_tokens[2] < 64
    assert play(again, [one(spec())]).cached_tokens[2] == 64


def test_prefix_aware_routing_finds_the_cache() -> None:
    """Requests of two prefixes alternate in pairs: routing by prefix hits where round robin misses."""
    count = 40
    ids = np.repeat(np.arange(count) // 2 % 2, 4) * 100 + np.tile(np.arange(4), count)
    requests = Requests(
        np.arange(count) * 1.0, np.full(count, 70), np.full(count, 4),
        prefixes=Prefixes(16, np.arange(count + 1) * 4, ids),
    )  # fmt: skip
    hits = {router: play(requests, [one(spec(), 4, router)]).cached_tokens.sum()
            for router in ("round-robin", "prefix-aware")}  # fmt: skip
    assert hits["prefix-aware"] == 64 * (count - 2)
    assert hits["round-robin"] < hits["prefix-aware"]


def test_prompts_wait_for_others() -> None:
    """Beside a running request a prompt waits until the batch is full enough, or for as many iterations as it may."""
    prices = LinearPrices(0.01, 0.0, 0.0, 0.0)
    requests = Requests(np.array([0.0, 0.1, 0.5, 0.6]), np.full(4, 50), np.full(4, 1000))
    waiting = VLLM.model_copy(update={"batch_wait_iterations": 30, "batch_wait_budget_fraction": 0.1})
    waits = play(requests, [one(ReplicaSpec((prices,), 100_000, waiting, token_budget=1000))]).ttft_seconds
    assert waits[0] == pytest.approx(0.01)
    assert waits[1] == pytest.approx(30 * 0.01 + 0.01, abs=0.011)
    assert waits[2] == pytest.approx(0.1 + 0.01, abs=0.011)
    assert waits[3] == pytest.approx(0.01, abs=0.011)


def test_groups_wait_for_one_another() -> None:
    """Prompts run when both groups have one, when one group would idle, and when the counter of iterations is full."""
    prices = LinearPrices(0.01, 0.0, 0.0, 0.0)
    requests = Requests(np.array([0.0, 0.0, 0.1, 0.5, 0.6]), np.full(5, 50), np.full(5, 1000))
    balanced = VLLM.model_copy(update={"balance_wait_iterations": 30})
    waits = play(requests, [one(ReplicaSpec((prices,), 100_000, balanced, token_budget=1000, groups=2))]).ttft_seconds
    assert waits[:2] == pytest.approx([0.01, 0.01])
    assert waits[2] == pytest.approx(30 * 0.01 - 0.1 + 0.01, abs=0.021)
    assert waits[3:] == pytest.approx([0.1 + 0.01, 0.01], abs=0.011)


def test_batches_formed_ahead_are_one_iteration_behind() -> None:
    """A prompt that comes during an iteration runs in the one after the next; on an idle replica at once."""
    prices = LinearPrices(0.01, 0.0, 0.0, 0.0)
    requests = Requests(np.array([0.0, 0.105]), np.full(2, 50), np.full(2, 1000))
    waits = [play(requests, [one(spec(VLLM.model_copy(update={"schedules_ahead": ahead}), prices=prices))]).ttft_seconds
             for ahead in (False, True)]  # fmt: skip
    assert waits[0] == pytest.approx([0.01, 0.015])
    assert waits[1] == pytest.approx([0.01, 0.025])


def test_pools_for_prompts_and_decoding() -> None:
    """Clients see the first token when the other pool goes on with it, after a transfer; transfers queue."""
    requests = Requests(np.zeros(2), np.array([200, 200]), np.array([6, 1]))
    slow = Transfer(bytes_per_token=1.0, bytes_per_second=100.0, latency_seconds=0.5)
    alone = play(requests, [one(spec(token_budget=1000))])
    split = play(requests, [Deployment(PoolSpec(spec()), PoolSpec(spec(token_budget=1000)), slow)])
    transfer_seconds = np.array([2.0 + 0.5, 0.0])
    assert split.first_token_seconds == pytest.approx(alone.first_token_seconds + transfer_seconds)
    decoding = split.last_token_seconds[0] - split.first_token_seconds[0]
    prices = LinearPrices()
    decodes = sum(prices.base_seconds + prices.seconds_per_decode + context * prices.seconds_per_context_token
                  for context in range(201, 206))  # fmt: skip
    assert decoding == pytest.approx(decodes)
    assert split.last_token_seconds[1] == split.first_token_seconds[1]


def test_stages_take_turns() -> None:
    """Two stages of half the time each are both busy: half a round later, as fast as one of the whole."""
    requests = Requests(np.zeros(40), np.full(40, 100), np.full(40, 20))
    half, all_of_it = LinearPrices(0.0025, 0.0, 0.0, 0.0), LinearPrices(0.005, 0.0, 0.0, 0.0)
    whole = play(requests, [one(ReplicaSpec((all_of_it,), 100_000, VLLM))])
    staged = play(requests, [one(ReplicaSpec((half, half), 100_000, VLLM))])
    assert whole.duration_seconds == pytest.approx(20 * 0.005)
    assert staged.duration_seconds == pytest.approx(20 * 0.005 + 0.0025)
    half = LinearPrices(0.0025, 1e-5, 5e-5, 5e-8)
    lone = Requests(np.zeros(1), np.array([100]), np.array([10]))
    lone_seconds = [play(lone, [one(ReplicaSpec(stages, 9000, VLLM))]).e2e_seconds[0]
                    for stages in ((LinearPrices(),), (half, half))]  # fmt: skip
    assert lone_seconds[1] == pytest.approx(lone_seconds[0])


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_guesses_shorten_answers_as_the_formula_says(acceptance: float) -> None:
    """Tokens an iteration are (1 - a^(k+1)) / (1 - a) on average."""
    count, length = 40, 400
    requests = Requests(np.arange(count) * 100.0, np.full(count, 50), np.full(count, length))
    prices = LinearPrices(seconds_per_context_token=0.0)
    guessing = ReplicaSpec((prices,), 100_000, VLLM, speculation=Speculation(3, acceptance))
    played = play(requests, [one(guessing)])
    iteration = prices.base_seconds + prices.seconds_per_decode
    expected = iteration / sum(acceptance**power for power in range(4))
    assert played.tpot_seconds.mean() == pytest.approx(expected, rel=0.03)


def test_follow_up_requests_arrive_with_the_answer() -> None:
    """A chain over two deployments: the second request begins when the first is done."""
    requests = Requests(
        np.zeros(2), np.array([50, 80]), np.array([10, 20]), deployment=np.array([0, 1]), follower=np.array([1, -1])
    )
    played = play(requests, [one(spec()), one(spec())])
    assert played.arrival_seconds[1] == played.last_token_seconds[0]
    assert played.replica.tolist() == [0, 1]


def test_a_failed_replica_loses_its_requests_to_the_others() -> None:
    """All are answered, those it ran later than without the failure; a lone replica's wait for its repair."""
    requests = some_requests(2, count=120)
    fine = play(requests, [one(spec(), 2)])
    failing = Deployment(PoolSpec(spec(), 2, failures=(Failure(2.0, 3.0, replica=1),)))
    played = play(requests, [failing])
    assert np.all(np.isfinite(played.last_token_seconds))
    hit = (fine.replica == 1) & (fine.arrival_seconds < 2.0) & (fine.last_token_seconds > 2.0)
    assert hit.any()
    assert np.all(played.num_preemptions[hit] == 1)
    assert np.all(played.last_token_seconds[hit] > fine.last_token_seconds[hit])
    lone = play(requests, [Deployment(PoolSpec(spec(), failures=(Failure(2.0, 3.0),)))])
    waited = (lone.arrival_seconds > 2.0) & (lone.arrival_seconds < 5.0)
    assert np.all(lone.first_token_seconds[waited] > 5.0)
    assert lone.replica_seconds[0] == pytest.approx(lone.last_token_seconds.max() - 3.0)


def test_autoscaling_follows_the_load() -> None:
    """A burst makes replicas start, after their start-up; when it is over they go, and are no longer paid for."""
    generator = np.random.default_rng(4)
    burst, calm = np.sort(generator.uniform(0.0, 20.0, 600)), 20.0 + np.arange(100) * 4.0
    requests = Requests(np.concatenate([burst, calm]), np.full(700, 200), np.full(700, 100))
    scaling = Autoscaling(
        1, 4, num_requests_per_replica=4.0, startup_seconds=5.0, interval_seconds=2.0, quiet_seconds=30.0
    )
    fixed = play(requests, [one(spec(), 1, "least-loaded")])
    played = play(requests, [Deployment(PoolSpec(spec(), 1, "least-loaded", scaling))])
    lives = played.lives_seconds[0]
    assert len(lives) == 4
    assert lives[0][0] == 0.0
    assert all(begin >= 2.0 for begin, _ in lives[1:])
    assert played.first_token_seconds[played.replica > 0].min() > 7.0
    end = played.last_token_seconds.max()
    assert sum(until < end for _, until in lives) == 3
    assert played.ttft_seconds.mean() < fixed.ttft_seconds.mean()
    assert played.replica_seconds[0] < 2.5 * end


def test_timeline_sees_what_happens() -> None:
    """Batches of one loop follow one another, their iterations make all tokens, and memory is never over-full."""
    requests = some_requests(6, rate=200.0)
    timeline = Timeline(keeps_batches=True)
    played = play(requests, [one(spec(kv_tokens=2000))], timeline=timeline)
    begins = np.array([batch.begin_seconds for batch in timeline.batches])
    ends = np.array([batch.end_seconds for batch in timeline.batches])
    assert np.all(begins[1:] >= ends[:-1] - 1e-12)
    assert timeline.busy_seconds[0] == pytest.approx(float(np.sum(ends - begins)))
    assert sum(batch.prefill_tokens for batch in timeline.batches) >= requests.input_tokens.sum()
    used = timeline.column(3, [0], np.linspace(0.0, played.last_token_seconds.max(), 500))
    assert 0.5 < used.max() <= 1.0


def test_picture_and_trace(tmp_path: Path) -> None:
    """Both are written; every request has a beginning and an end in the trace, and every batch a name."""
    requests = some_requests(8, count=100)
    timeline = Timeline(keeps_batches=True)
    played = play(requests, [one(spec(), 2)], timeline=timeline)
    save_serving(played, timeline, tmp_path / "a.svg", title="two replicas", limit_seconds=0.5)
    assert (tmp_path / "a.svg").read_text().count("<path") > 50
    write_events(tmp_path / "a.json", serving_events(played, timeline))
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    kinds = [event["ph"] for event in events]
    assert kinds.count("b") == kinds.count("e") == 200
    assert all(event["name"] and event["dur"] >= 0.0 for event in events if event["ph"] == "X")
    assert {event["name"] for event in events if event["ph"] == "C"} == {name for _, name in COUNTERS}


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_routers_share_the_load(name: str) -> None:
    """Every router answers everything, and gives equal replicas about equally many of like requests."""
    requests = Requests(np.arange(400) * 0.01, np.full(400, 100), np.full(400, 30))
    played = play(requests, [one(spec(), 4, name)])
    counts = np.bincount(played.replica, minlength=4)
    assert counts.sum() == 400
    assert counts.min() >= 60
