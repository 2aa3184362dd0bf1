"""A bound never exceeds what it bounds, so that pruning changes no answer."""

import numpy as np
import pytest

from planner.choose.bounds import busy_bound_seconds
from planner.choose.search import search
from planner.cost.estimate import estimate
from tests.scenes import cluster, job, sample, stack


@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b", "t5-11b", "resnet-50"])
def test_no_step_is_shorter_than_its_bound(model: str) -> None:
    work, devices = job(model), cluster(16)
    plans = sample(work, devices, 3000)
    bound = busy_bound_seconds(plans, work, devices, stack())
    steps = estimate(plans, work, devices, stack()).step_seconds
    assert np.all(bound > 0.0)
    assert np.all(bound <= steps * (1.0 + 1e-12))


def test_pruning_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, so that later ones meet the bound, find what one chunk without a bound finds."""
    work, devices = job("llama3-8b", sequence_length=8192), cluster(32)
    whole = search(work, devices, stack(), top=5)
    monkeypatch.setattr("planner.choose.search.CHUNK", 200)
    chunked = search(work, devices, stack(), top=5)
    assert chunked.num_too_slow > 0
    assert whole.num_too_slow == 0
    assert [one.plan for one in chunked.candidates] == [one.plan for one in whole.candidates]
    assert chunked.num_fitting == whole.num_fitting == chunked.num_estimated + chunked.num_too_slow
