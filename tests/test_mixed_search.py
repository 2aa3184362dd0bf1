"""Searches on several groups of nodes: as good as trying everything, never worse for more nodes, and what crosses."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from planner.choose.mixed import search_any, search_mixed
from planner.choose.mixed_rules import check_placed
from planner.choose.search import Answer, search
from planner.choose.skeletons import skeletons, way_of
from planner.cost.mixed import price, tightest_seat
from planner.placement import Lane
from planner.plan import Plan
from profiles.mixed import MixedCluster
from simulator.play import play_plan
from tests.rooms import room, sites
from tests.scenes import job, stack

WORK = job("opt-1.3b", global_batch=32)
HELD = {"tp": 1, "cp": 1, "micro_batch": 4, "zero_stage": 0, "recompute": "none", "schedule": "1f1b"}


def every_plan(where: MixedCluster, pp: int) -> Iterator[Plan]:
    """Every set of lanes of two devices a group, every layout of 24 layers on two stages, and all shares."""
    seats = list(itertools.product([group.name for group in where.groups], repeat=pp))
    microbatches = WORK.global_batch // 4
    layouts = [(count, 24 - count) for count in range(6, 23, 2)] if pp == 2 else [()]
    for dp in range(1, 5):
        for lanes in itertools.combinations_with_replacement(seats, dp):
            for shares in itertools.product(range(1, microbatches + 1), repeat=dp):
                if sum(shares) == microbatches and (dp < 3 or max(shares) - min(shares) < 3):
                    placement = tuple(Lane(1, share, stages) for share, stages in zip(shares, lanes, strict=True))
                    for layout in layouts:
                        yield Plan(dp=dp, pp=pp, micro_batch=4, layout=layout, placement=placement)


@pytest.mark.parametrize("pp", [1, 2])
def test_a_small_search_finds_what_trying_everything_finds(pp: int) -> None:
    where, software = room(2, 2), stack()
    legal = [plan for plan in every_plan(where, pp) if not check_placed(plan, WORK, where)]
    fitting = [plan for plan in legal if tightest_seat(plan, WORK, where, software).headroom_bytes >= 0.0]
    assert fitting
    best = min(float(price(plan, WORK, where, software).step_seconds) for plan in fitting)
    found = search_mixed(WORK, where, software, fixed=HELD | {"pp": pp}, top=1, max_micro_batch=4).candidates[0]
    assert float(found.step_seconds) <= best * (1.0 + 1e-6)


@pytest.fixture(scope="module")
def answer() -> Answer:
    work = job("llama3-8b", sequence_length=4096)
    return search_any(work, room(8, 8), stack(), top=5, simulate=None, max_micro_batch=2)


def test_more_nodes_never_hurt(answer: Answer) -> None:
    work = job("llama3-8b", sequence_length=4096)
    best = float(answer.candidates[0].step_seconds)
    for group in room(8, 8).groups:
        alone = search(work, group.cluster, stack(), top=1, max_micro_batch=2).candidates
        assert not alone or best <= float(alone[0].step_seconds) * (1.0 + 1e-9)


def test_what_is_found_is_legal_fits_and_plays_as_estimated(answer: Answer) -> None:
    work, where = job("llama3-8b", sequence_length=4096), room(8, 8)
    for candidate in answer.candidates:
        assert check_placed(candidate.plan, work, where) == []
        assert tightest_seat(candidate.plan, work, where, stack()).headroom_bytes >= 0.0
    best = answer.candidates[0]
    played = play_plan(best.plan, work, where, stack())
    assert played.step_seconds == pytest.approx(float(best.estimate.step_seconds), rel=0.03)


def test_every_way_to_lie_is_compared(answer: Answer) -> None:
    ways = [way_of(one.plan.placement) for one in answer.ways]
    assert {"side by side", "in line", "alone on h100"} <= set(ways)
    assert [float(one.step_seconds) for one in answer.ways] == sorted(float(one.step_seconds) for one in answer.ways)


def test_random_plans_are_no_better(answer: Answer) -> None:
    """Skeletons, layouts and shares drawn at random, with the options of the best plan found."""
    generator = np.random.default_rng(0)
    work, where = job("llama3-8b", sequence_length=4096), room(8, 8)
    best = answer.candidates[0]
    every = [one for tp in (1, 2, 4, 8) for one in skeletons(where, tp, 1, 32)]
    tried = 0
    for _ in range(150):
        skeleton = every[generator.integers(len(every))]
        shares = (
            1 + generator.multinomial(32 - skeleton.dp, [1.0 / skeleton.dp] * skeleton.dp) if skeleton.dp <= 32 else []
        )
        stages = [names for number, names in skeleton.lanes for _ in range(number)]
        lanes = tuple(Lane(1, int(share), names) for share, names in zip(shares, stages, strict=False))
        cuts = np.sort(generator.choice(np.arange(1, 32), skeleton.pp - 1, replace=False))
        layout = tuple(int(count) for count in np.diff([0, *cuts, 32]))
        plan = Plan(dp=skeleton.dp, tp=skeleton.tp, pp=skeleton.pp, micro_batch=2, layout=layout, zero_stage=1,
                    sequence_parallel=skeleton.tp > 1, placement=lanes)  # fmt: skip
        if check_placed(plan, work, where) or tightest_seat(plan, work, where, stack()).headroom_bytes < 0.0:
            continue
        tried += 1
        assert float(price(plan, work, where, stack()).step_seconds) >= float(best.step_seconds)
    assert tried > 20


def test_the_line_between_sites_decides_what_crosses() -> None:
    """Gradients cross a wide line; a narrow one is crossed by activations, or by nothing."""
    work = job("opt-1.3b", global_batch=64)
    held = {"tp": 1, "cp": 1, "micro_batch": 4, "zero_stage": 1, "recompute": "none"}
    ways = []
    for rate in (100.0, 0.5):
        best = search_mixed(work, sites(rate, 4), stack(), fixed=held, top=1, max_micro_batch=4).candidates[0]
        ways.append(way_of(best.plan.placement))
    assert ways[0] == "side by side"
    assert ways[1] != "side by side"
