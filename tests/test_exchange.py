"""What data-parallel ranks send one another, where a job asks for more than its stack does."""

import pytest

from planner.choose.legality import check_plan
from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.plan import Plan
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import program_bytes
from profiles.exchange import Exchange
from profiles.workload import TrainingJob
from simulator.play import play_plan
from tests.scenes import cluster, job, stack


def with_exchange(**fields: object) -> TrainingJob:
    return job().model_copy(update={"exchange": Exchange(**fields)})


def moved(work: TrainingJob, plan: Plan, collective: str) -> float:
    program = lower(plan, work, stack())
    return sum(
        float(op.num_bytes) for works in (program.work, program.layer_work) for one in works.values()
        for op, _ in one.ops if isinstance(op, Message) and op.collective == collective and "dp" in op.axis
    )  # fmt: skip


@pytest.mark.parametrize("stage", [1, 3])
def test_gathers_in_fp8_move_half_and_hold_half(stage: int) -> None:
    plan = Plan(dp=8, zero_stage=stage)
    usual, narrow = job(), with_exchange(gather_precision="fp8")
    assert moved(narrow, plan, "all_gather") == pytest.approx(0.5 * moved(usual, plan, "all_gather"))
    assert moved(narrow, plan, "reduce_scatter") == pytest.approx(moved(usual, plan, "reduce_scatter"))
    before, after = (estimate(plan, one, cluster(8), stack()) for one in (usual, narrow))
    assert after.step_seconds <= before.step_seconds
    assert after.memory.gathered_bytes == pytest.approx(0.5 * before.memory.gathered_bytes)


DDP, TWO_GROUPS = Plan(dp=16), Plan(dp=16, dp_replicate=2)


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"gradient_compression": "bf16"}, DDP),
        ({"secondary_shards": 8}, Plan(dp=16, zero_stage=3)),
        ({"gradient_compression": "int8"}, DDP),
        ({"gradient_compression": "int8"}, Plan(dp=16, zero_stage=2)),
        ({"gradient_compression": "top-k"}, DDP),
        ({"synchronization": "local", "sync_interval": 50}, TWO_GROUPS),
        ({"synchronization": "local", "sync_interval": 5, "gradient_compression": "top-k"}, TWO_GROUPS),
        ({"synchronization": "local", "sync_interval": 5}, Plan(dp=16, zero_stage=1, dp_replicate=4)),
        ({"synchronization": "parameter-server", "num_servers": 2}, DDP),
        ({"synchronization": "asynchronous"}, DDP),
        ({"synchronization": "asynchronous", "num_servers": 1}, Plan(dp=8, pp=2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("contention", [0.0, 0.3])
def test_closed_form_and_simulation_agree(fields: dict[str, object], plan: Plan, contention: float) -> None:
    work, devices = with_exchange(**fields), cluster(16)
    software = stack(dp_contention_fraction=contention)
    assert check_plan(plan, work, devices) == []
    estimated = estimate(plan, work, devices, software).step_seconds
    played = play_plan(plan, work, devices, software).step_seconds
    assert estimated == pytest.approx(played, rel=1e-9 if plan.pp == 1 else 0.03)


def test_compression_sends_less_and_keeps_what_it_rounds() -> None:
    plan, devices = Plan(dp=16), cluster(16)
    sent = {
        name: moved(with_exchange(gradient_compression=name), plan, "all_reduce") for name in ("none", "bf16", "int8")
    }
    assert sent["bf16"] == pytest.approx(sent["none"] / 2)
    assert sent["int8"] == pytest.approx(sent["none"] / 4, rel=0.02)
    usual, rounded = (
        estimate(plan, with_exchange(gradient_compression=name), devices, stack()).memory.optimizer_bytes
        for name in ("none", "int8")
    )
    assert rounded > usual


def test_a_second_copy_trades_memory_for_the_network() -> None:
    devices = cluster(16)
    outer = devices.tiers[-1].model_copy(update={"bytes_per_second": 1e9})
    slow = devices.model_copy(update={"tiers": (*devices.tiers[:-1], outer)})
    plan = Plan(dp=16, zero_stage=3)
    once, twice = (estimate(plan, with_exchange(secondary_shards=nearby), slow, stack()) for nearby in (0, 8))
    assert twice.step_seconds < once.step_seconds
    assert twice.memory.weights_bytes > once.memory.weights_bytes


@pytest.mark.parametrize("intervals", [(1, 10, 100)])
def test_rarer_averages_are_faster_on_a_slow_network(intervals: tuple[int, ...]) -> None:
    devices = cluster(16)
    outer = devices.tiers[-1].model_copy(update={"bytes_per_second": 1e8})
    slow = devices.model_copy(update={"tiers": (*devices.tiers[:-1], outer)})
    plan = Plan(dp=16, dp_replicate=2)
    steps = [
        estimate(plan, with_exchange(synchronization="local", sync_interval=each), slow, stack()).step_seconds
        for each in intervals
    ]
    assert steps == sorted(steps, reverse=True)
    synchronous = estimate(Plan(dp=16), job(), slow, stack()).step_seconds
    assert steps[-1] < 0.5 * synchronous


def test_fewer_servers_are_never_faster_and_nobody_waits_asynchronously() -> None:
    devices = cluster(16)
    servers = [
        estimate(Plan(dp=16), with_exchange(synchronization="parameter-server", num_servers=each), devices, stack())
        for each in (16, 4, 1)
    ]
    steps = [one.step_seconds for one in servers]
    assert steps == sorted(steps)
    asynchronous = with_exchange(synchronization="asynchronous", num_servers=1)
    assert estimate(Plan(dp=16), asynchronous, devices, stack()).step_seconds <= steps[-1]


@pytest.mark.parametrize(
    ("fields", "plan", "word"),
    [
        ({"gradient_compression": "top-k"}, Plan(dp=16, zero_stage=1), "top-k"),
        ({"secondary_shards": 8}, Plan(dp=16, zero_stage=1), "secondary_shards=8"),
        ({"secondary_shards": 5}, Plan(dp=16, zero_stage=3), "secondary_shards=5"),
        ({"synchronization": "parameter-server"}, Plan(dp=16, zero_stage=1), "parameter-server"),
        ({"synchronization": "local"}, Plan(dp=16), "dp_replicate=1"),
        ({"synchronization": "local"}, Plan(dp=16, zero_stage=3, dp_replicate=2), "zero_stage=3"),
        ({"synchronization": "asynchronous", "num_servers": 17}, Plan(dp=16), "num_servers=17"),
    ],
)
def test_rules_name_what_contradicts(fields: dict[str, object], plan: Plan, word: str) -> None:
    assert any(word in sentence for sentence in check_plan(plan, with_exchange(**fields), cluster(16)))


@pytest.mark.parametrize("fields", [{"sync_interval": 4}, {"num_servers": 2}])
def test_knobs_without_their_way_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Exchange(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("synchronization", ["local", "parameter-server", "asynchronous"])
def test_a_search_finds_plans_for_every_way(synchronization: str) -> None:
    answer = search(with_exchange(synchronization=synchronization), cluster(16), stack(), top=1, max_micro_batch=1)
    assert answer.candidates


def test_every_axis_of_bytes_is_counted() -> None:
    program = lower(Plan(dp=8, zero_stage=3), job(), stack())
    assert program_bytes(program)["dp-shard"] > 0.0


def test_words_say_what_changes_and_nothing_else() -> None:
    assert Exchange().words() == []
    assert "every 50 steps" in Exchange(synchronization="local", sync_interval=50).words()[0]
    assert "n - 1 updates old" in Exchange(synchronization="asynchronous").words()[-1]
    assert "0.05" in Exchange(gradient_compression="top-k", top_k_fraction=0.05).words()[0]
    assert len(Exchange(gather_precision="fp8", gradient_compression="bf16").words()) == 2


def test_small_buckets_pay_latencies_and_large_ones_hide_less() -> None:
    """Estimate and simulation agree; parameters that are sharded by layer have no buckets."""
    work, devices, software = job(), cluster(16), stack()

    def exposed(mib: float, plan: Plan) -> float:
        asked = work.model_copy(update={"exchange": Exchange(bucket_mib=mib)})
        found = estimate(plan, asked, devices, software)
        assert play_plan(plan, asked, devices, software).step_seconds == pytest.approx(found.step_seconds, rel=0.01)
        return float(found.breakdown.dp_seconds)

    replicated, sharded = Plan(dp=16), Plan(dp=16, zero_stage=3)
    tiny, usual, whole = (exposed(mib, replicated) for mib in (0.25, 25.0, 1e6))
    assert usual < tiny
    assert usual < whole
    assert exposed(25.0, sharded) == exposed(0.0, sharded)
