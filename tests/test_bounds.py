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
    """Bounds, in chunks of any size, find what pricing every plan finds."""
    work, devices = job("llama3-8b", sequence_length=8192), cluster(32)
    pruned = search(work, devices, stack(), top=5)
    monkeypatch.setattr("planner.choose.search.CHUNK", 2000)
    chunked = search(work, devices, stack(), top=5)
    monkeypatch.setattr("planner.choose.funnel.busy_bound_seconds", lambda plans, *_: np.zeros(len(plans)))
    whole = search(work, devices, stack(), top=5)
    assert whole.num_too_slow == 0
    assert whole.num_estimated == whole.num_fitting
    for found in (pruned, chunked):
        assert [one.plan for one in found.candidates] == [one.plan for one in whole.candidates]
        assert found.num_too_slow > 0
        assert found.num_fitting == whole.num_fitting == found.num_estimated + found.num_too_slow
