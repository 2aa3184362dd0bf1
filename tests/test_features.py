"""Gates that every split which can be run must pass: it computes what one rank does, and sends what its plan says."""

import itertools

import pytest

from planner.plan import Plan
from profiles import catalog
from tests.features import FEATURES, TOLERANCE, Feature, job, losses, reference, run
from validate.messages import check_messages, compare_messages

pytest.importorskip("torch")

NEAR = 2e-3
"""Relative difference of losses in bf16: a sum in another order rounds otherwise."""


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_a_split_trains_as_one_rank_does_and_sends_what_its_plan_says(feature: Feature) -> None:
    plan, model, precision = feature.plan, feature.model, feature.precision
    global_batch = 8 if plan.dp != 3 else 9
    results = run(plan, model, precision=precision, global_batch=global_batch, count_messages=True)
    expected = reference(model, precision, global_batch)
    assert losses(results) == pytest.approx(expected, rel=TOLERANCE if precision == "fp32" else NEAR)
    assert [result["rank"] for result in results] == list(range(plan.num_ranks))
    coordinates = [tuple(result["coordinates"].values()) for result in results]
    assert coordinates == list(itertools.product(*map(range, (plan.pp, plan.dp, plan.cp, plan.tp))))
    stack = catalog.software("pytorch-eager-cpu")
    rows = compare_messages(results, job(model, precision=precision, global_batch=global_batch), plan, stack)
    assert rows
    check_messages(rows)
    assert all(row.planned_bytes or row.reasons for row in rows)


def test_bytes_that_no_plan_explains_are_refused() -> None:
    plan, stack = Plan(dp=2, micro_batch=2), catalog.software("pytorch-eager-cpu")
    results = run(plan, count_messages=True, num_steps=1)
    results[0]["messages"][0]["num_bytes"] += 8.0
    with pytest.raises(ValueError, match=r"messages: stage 0 sends \d+ bytes by all_reduce over dp, .* \+4 are not"):
        check_messages(compare_messages(results, job(), plan, stack))
