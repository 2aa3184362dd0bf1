"""The search finds the best plan, says why the others lost, and why nothing fits."""

import numpy as np
import pytest

from planner.breakdown import Breakdown
from planner.choose.legality import check_plan, legal
from planner.choose.search import Answer, search
from planner.cost.estimate import estimate
from planner.cost.memory import usable_bytes
from planner.plan import Plan
from tests.scenes import cluster, job, plan_space, stack


@pytest.fixture(scope="module")
def answer() -> Answer:
    return search(job("llama3-8b", sequence_length=8192), cluster(32), stack(uneven_stages=False))


def test_the_winner_is_the_fastest_that_fits(answer: Answer) -> None:
    work, devices = job("llama3-8b", sequence_length=8192), cluster(32)
    space = plan_space(work, devices)
    plans = space.take(np.flatnonzero(legal(space, work, devices)[0]))
    priced = estimate(plans, work, devices, stack())
    fits = priced.memory.peak_bytes <= usable_bytes(devices, stack())
    assert answer.candidates[0].step_seconds == pytest.approx(priced.step_seconds[fits].min(), rel=1e-9)
    assert answer.num_plans == len(space)
    assert answer.num_legal == len(plans)
    assert answer.num_fitting == fits.sum()


def test_candidates_are_legal_ranked_and_of_different_splits(answer: Answer) -> None:
    steps = [candidate.step_seconds for candidate in answer.candidates]
    assert steps == sorted(steps)
    assert len(answer.candidates) == 10
    splits = {(c.plan.tp, c.plan.pp, c.plan.cp, c.plan.ep) for c in answer.candidates}
    assert len(splits) == len(answer.candidates)
    for candidate in answer.candidates:
        assert check_plan(candidate.plan, job("llama3-8b", sequence_length=8192), cluster(32)) == []


def test_every_loser_has_a_reason(answer: Answer) -> None:
    assert answer.candidates[0].reason == "the fastest plan that fits"
    for loser in answer.candidates[1:]:
        assert "slower: +" in loser.reason or "as fast" in loser.reason


def test_fixed_fields_hold() -> None:
    found = search(job(), cluster(16), stack(), fixed={"tp": 2, "recompute": "full", "schedule": "gpipe"}).candidates
    assert found
    assert all((c.plan.tp, c.plan.recompute.name, c.plan.schedule) == (2, "FULL", "gpipe") for c in found)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [({"tpp": 2}, "'tpp' is not a field"), ({"schedule": "zb"}, "schedule='zb'"), ({"recompute": "some"}, "'some'")],
)
def test_unknown_fields_and_values_are_named(fixed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(job(), cluster(8), stack(), fixed=fixed)  # type: ignore[arg-type]


def test_nothing_fits_is_an_answer_with_reasons() -> None:
    found = search(job("llama3.1-405b"), cluster(8), stack())
    assert found.candidates == ()
    assert found.num_legal > 0
    assert len(found.nearest_misses) == 3
    nearest = found.nearest_misses[0]
    assert nearest.bytes_over > 0
    assert "GiB over" in nearest.reason


def test_no_legal_plan_is_an_answer_with_rules() -> None:
    found = search(job(global_batch=7), cluster(16), stack(), fixed={"dp": 2})
    assert found.candidates == ()
    assert found.num_legal == 0
    assert "microbatches fill the batch" in found.rejected


def test_the_simulator_has_the_last_word() -> None:
    """A simulator that dislikes the estimate's favourite changes the ranking."""
    favourite = search(job(), cluster(16), stack(), top=5).candidates[0].plan

    def contrary(plan: Plan) -> Breakdown:
        return Breakdown(forward_seconds=100.0 if plan == favourite else 1.0)

    ranked = search(job(), cluster(16), stack(), top=5, simulate=contrary).candidates
    assert ranked[-1].plan == favourite
    assert "slower: +" in ranked[-1].reason


def test_results_do_not_depend_on_the_run() -> None:
    first, second = (search(job("mixtral-8x7b"), cluster(16), stack()) for _ in range(2))
    assert [c.plan for c in first.candidates] == [c.plan for c in second.candidates]


def test_progress_is_reported() -> None:
    seen: list[tuple[str, int, int]] = []
    search(job(), cluster(8), stack(), on_progress=lambda *step: seen.append(step))
    assert seen[-1][0] == "estimate"
    assert seen[-1][1] == seen[-1][2]
