"""Reasons name the parts that differ."""

import pytest

from planner.breakdown import Breakdown
from planner.choose.explain import differences, duration, why_lost, why_too_big
from planner.cost.estimate import estimate
from planner.plan import Plan
from tests.scenes import cluster, job, stack

WINNER = Breakdown(forward_seconds=1.0, backward_seconds=2.0, tp_seconds=0.5, idle_seconds=0.1)
LOSER = Breakdown(forward_seconds=1.0, backward_seconds=2.0, tp_seconds=0.1, idle_seconds=1.0)


def test_a_loss_names_what_grew_and_what_shrank() -> None:
    reason = why_lost(LOSER, WINNER)
    assert reason == "13.9 % slower: +900 ms pipeline bubble, though 400 ms less tensor-parallel communication"


def test_ties_are_called_ties() -> None:
    assert "as fast" in why_lost(WINNER, WINNER)


def test_differences_sum_to_the_gap() -> None:
    assert sum(gap for _, gap in differences(LOSER, WINNER)) == pytest.approx(LOSER.step_seconds - WINNER.step_seconds)


def test_durations_read_well() -> None:
    assert (duration(12.34), duration(0.0123), duration(-2.0)) == ("12.3 s", "12.3 ms", "-2.00 s")


def test_too_big_names_the_largest_part() -> None:
    priced = estimate(Plan(dp=8), job("llama3-70b"), cluster(8), stack())
    reason = why_too_big(priced, cluster(8), stack())
    assert "GiB over the 78.8 GiB usable of a100-sxm-80gb" in reason
    assert "; most is optimizer, " in reason
