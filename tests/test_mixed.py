"""Plans on several groups of nodes: their price, the simulator's play, and what layers and microbatches each gets."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from planner.choose.mixed_rules import check_placed
from planner.cost.estimate import estimate
from planner.cost.mixed import price, seat_memory
from planner.cost.shares import shared_out
from planner.placement import parsed
from planner.plan import Plan
from planner.work.assign import assign
from profiles import catalog
from simulator.play import play_plan
from tests.rooms import room, sites, twins
from tests.scenes import job, stack

PIPED = Plan(dp=2, tp=8, pp=2, zero_stage=1, sequence_parallel=True)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (PIPED, "2 of one,two @32"),
        (PIPED, "1 of one*2 @32; 1 of two*2 @32"),
        (Plan(dp=4, tp=8), "2 of one @16; 2 of two @16"),
        (Plan(dp=8, tp=2, pp=2, micro_batch=2), "4 of one*2 @4; 4 of two*2 @4"),
    ],
)
def test_a_cluster_written_as_two_equal_groups_costs_the_same(plan: Plan, text: str) -> None:
    work = job("llama3-8b", sequence_length=4096)
    whole = estimate(plan, work, catalog.cluster("dgx-h100", 32), stack())
    apart = price(replace(plan, placement=parsed(text)), work, twins(), stack())
    assert apart.breakdown.parts() == pytest.approx(whole.breakdown.parts(), rel=1e-9, abs=1e-12)
    assert apart.memory.parts() == pytest.approx(whole.memory.parts(), rel=1e-12)


PLACED = [
    (room(), "2 of h100,a100 @32"),
    (room(), "2 of a100,h100 @32"),
    (room(), "1 of h100*2 @44; 1 of a100*2 @20"),
    (sites(1.0), "2 of north,south @32"),
    (sites(50.0), "1 of north*2 @32; 1 of south*2 @32"),
]


@pytest.mark.parametrize(("where", "text"), PLACED, ids=[f"{where.name}: {text}" for where, text in PLACED])
@pytest.mark.parametrize("overlap", [True, False])
def test_the_simulator_agrees(where: object, text: str, overlap: bool) -> None:
    plan = replace(PIPED, placement=parsed(text), layout=(20, 12))
    work, software = job("llama3-8b", sequence_length=4096), stack(pp_overlap=overlap)
    assert check_placed(plan, work, where) == []  # type: ignore[arg-type]
    expected = price(plan, work, where, software)  # type: ignore[arg-type]
    played = play_plan(plan, work, where, software)  # type: ignore[arg-type]
    assert played.breakdown.step_seconds == pytest.approx(float(expected.step_seconds), rel=1e-6 if overlap else 0.04)


def test_interleaved_stages_agree_too() -> None:
    plan = Plan(dp=4, tp=4, pp=2, vp=4, schedule="interleaved", placement=parsed("4 of h100,a100 @16"))
    work = job("llama3-8b", sequence_length=4096)
    expected = float(price(plan, work, room(), stack()).step_seconds)
    assert play_plan(plan, work, room(), stack()).step_seconds == pytest.approx(expected, rel=0.02)


def test_a_slow_line_throttles_a_pipeline() -> None:
    """Once a transfer takes longer than a stage, the step is the line's."""
    plan = replace(PIPED, placement=parsed("2 of north,south @32"))
    work = job("llama3-8b", sequence_length=4096)
    steps = [float(price(plan, work, sites(rate), stack()).step_seconds) for rate in (0.05, 0.1, 50.0)]
    assert steps[0] == pytest.approx(2.0 * steps[1], rel=0.15)
    assert steps[1] > 2.0 * steps[2]


def test_each_stage_is_held_to_its_own_memory() -> None:
    plan = replace(PIPED, placement=parsed("2 of h100,a100 @32"))
    seats = seat_memory(plan, job("llama3-8b"), room(), stack())
    assert [seat.group for seat in seats] == ["h100", "a100"]
    assert seats[0].usable_bytes == pytest.approx(
        stack().usable_memory_fraction * catalog.accelerator("h100-sxm").memory_bytes
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 of h100,a100 @32", "3 replicas are placed"),
        ("2 of h100 @32", "pp=2 stages"),
        ("2 of h100,a100 @16", "32 sequences"),
        ("2 of h100*2 @32", "16 devices, and the plan puts 32"),
        ("auto", "several groups"),
    ],
)
def test_a_placement_that_cannot_be_is_refused_in_a_sentence(text: str, message: str) -> None:
    faults = check_placed(replace(PIPED, placement=parsed(text)), job("llama3-8b"), room())
    assert any(message in fault for fault in faults)


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ValueError, match="no group 'b200'; its groups are h100, a100"):
        check_placed(replace(PIPED, placement=parsed("2 of h100,b200 @32")), job("llama3-8b"), room())


def test_messages_of_every_microbatch_need_equal_shares() -> None:
    plan = Plan(dp=4, tp=8, zero_stage=3, placement=parsed("2 of h100 @20; 2 of a100 @12"))
    assert any("zero_stage=3" in fault for fault in check_placed(plan, job("llama3-8b"), room()))


def test_shares_are_the_best_of_all() -> None:
    """Every way to deal 32 microbatches out to an H100 and an A100 replica."""
    plan, work = Plan(dp=2, tp=8, micro_batch=2), job("llama3-8b", sequence_length=4096)
    where = room(8, 8)
    shares = shared_out(plan, [(1, ("h100",)), (1, ("a100",))], work, where, stack())
    assert shares is not None
    best = min(
        (replace(plan, placement=parsed(f"1 of h100 @{number}; 1 of a100 @{32 - number}")) for number in range(1, 32)),
        key=lambda one: float(price(one, work, where, stack()).step_seconds),
    )
    found = float(price(shares.plan, work, where, stack()).step_seconds)
    assert found == pytest.approx(float(price(best, work, where, stack()).step_seconds), rel=1e-9)
    assert shares.plan.placement[0].num_microbatches > shares.plan.placement[1].num_microbatches


def test_layers_are_dealt_out_to_unequal_stages_as_well_as_can_be() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        costs = generator.uniform(1.0, 3.0, (3, 6))
        first, last = generator.uniform(0.0, 2.0, 2)
        found = assign(costs, 3, first, last)

        def slowest(
            layout: tuple[int, ...], costs: np.ndarray = costs, ends: tuple[float, float] = (first, last)
        ) -> float:
            sums = np.split(np.arange(6), np.cumsum(layout)[:-1])
            chunks = [float(costs[chunk, own].sum()) for chunk, own in enumerate(sums)]
            return max(chunks[0] + ends[0], chunks[1], chunks[2] + ends[1])

        layouts = [one for one in itertools.product(range(7), repeat=3) if sum(one) == 6 and one[1] > 0]
        assert slowest(found) == pytest.approx(min(slowest(one) for one in layouts))
