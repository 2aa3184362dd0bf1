"""Conditions are read as they are written, and hold for every plan that is shown."""

import numpy as np
import pytest

from planner.choose.requirements import objective_named, parse_requirement
from planner.choose.search import search
from profiles.units import GIB, GIGA
from tests.scenes import cluster, job, stack


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("memory<=70GiB", "memory", 70 * GIB),
        ("headroom > 5 gb", "headroom", 5 * GIGA),
        ("step<900ms", "step", 0.9),
        ("mfu>=40%", "mfu", 0.4),
        ("mfu >= 0.4", "mfu", 0.4),
        ("tp<=8", "tp", 8.0),
        ("tokens_per_second>=1e6", "tokens_per_second", 1e6),
    ],
)
def test_conditions_are_read(text: str, name: str, value: float) -> None:
    found = parse_requirement(text)
    assert found.name == name
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", "is not NAME<=VALUE"),
        ("memory<=70Gi", "unit 'gi'"),
        ("tp<=8GiB", "tp takes none"),
        ("speed>3", "'speed' is not a figure"),
        ("schedule=1", "--fix schedule="),
        ("tp<=1.2.3", "is not a number"),
    ],
)
def test_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_requirement(text)


def test_every_plan_shown_meets_them() -> None:
    texts = ("memory<=60GiB", "tp<=2", "mfu>=30%", "microbatches>=4")
    found = search(job(), cluster(16), stack(), requirements=[parse_requirement(text) for text in texts])
    assert found.candidates
    for one in found.candidates:
        assert one.estimate.memory.peak_bytes <= 60 * GIB
        assert one.plan.tp <= 2
        assert one.plan.num_microbatches(64) >= 4
    assert found.unmet["tp<=2"] > 0
    assert set(found.unmet) == set(texts)


def test_the_smallest_plan_can_be_asked_for() -> None:
    small = search(job(), cluster(16), stack(), objective=objective_named("memory"))
    fast = search(job(), cluster(16), stack())
    peaks = [one.estimate.memory.peak_bytes for one in small.candidates]
    assert peaks == sorted(peaks)
    assert peaks[0] < fast.candidates[0].estimate.memory.peak_bytes
    assert small.candidates[0].reason == "the smallest plan"
    assert all("GiB larger, most of it" in one.reason for one in small.candidates[1:])
    with pytest.raises(ValueError, match="'speed' is not one of time, memory"):
        objective_named("speed")


def test_the_front_trades_time_for_memory() -> None:
    found = search(job(), cluster(16), stack(), wants_front=True)
    steps = np.array([one.step_seconds for one in found.front])
    peaks = np.array([one.memory.peak_bytes for one in found.front])
    assert len(found.front) > 2
    assert np.all(np.diff(steps) > 0)
    assert np.all(np.diff(peaks) < 0)
    assert steps[0] == pytest.approx(found.candidates[0].step_seconds)
