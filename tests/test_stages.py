"""Stage times are sums of layer prices, whatever the number of stages."""

import numpy as np
import pytest

from planner.cost.gradients import gradient_times
from planner.cost.stages import stage_times
from planner.plan import PlanGrid
from tests.scenes import cluster, job, stack

GRID = PlanGrid.product(pp=[1, 2, 4, 8], tp=[1, 2], micro_batch=[1, 2], recompute=[0, 2])


def test_stages_sum_to_the_whole_model() -> None:
    """Device time adds up over stages; only the launch floor does not, and this stack has none."""
    times = stage_times(GRID, job(), cluster(64), stack())
    whole = times.total_sum
    for tp in (1, 2):
        for size in (1, 2):
            for policy in (0, 2):
                rows = (GRID.tp == tp) & (GRID.micro_batch == size) & (GRID.recompute == policy)
                assert np.allclose(whole[rows], whole[rows][0], rtol=1e-12)


def test_the_slowest_stage_is_between_the_mean_and_the_sum() -> None:
    times = stage_times(GRID, job(), cluster(64), stack())
    whole = times.total_sum
    assert np.all(times.total_max <= whole * (1 + 1e-12))
    assert np.all(times.total_max >= whole / GRID.pp * (1 - 1e-12))
    assert np.allclose(sum(times.parts.values()), times.total_max)


def test_a_single_stage_is_first_last_and_slowest() -> None:
    times = stage_times(PlanGrid.product(micro_batch=[1, 4]), job(), cluster(1), stack())
    assert np.allclose(times.first_forward + times.first_backward, times.total_max)
    assert np.allclose(times.total_sum, times.total_max)
    assert np.all(times.first_weight < times.first_backward)


@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b"])
def test_sharding_divides_the_update_and_adds_a_gather(model: str) -> None:
    grid = PlanGrid.product(dp=[8], zero_stage=[0, 1])
    times = gradient_times(grid, job(model), cluster(8), stack())
    assert times.optimizer[1] == pytest.approx(times.optimizer[0] / 8, rel=0.01)
    assert times.gather[0] == 0.0
    assert times.gather[1] > 0.0
    assert times.reduce[1] < times.reduce[0]  # a reduce-scatter is half an all-reduce


def test_more_stages_leave_each_less_to_reduce() -> None:
    grid = PlanGrid.product(dp=[4], pp=[1, 2, 4, 8])
    times = gradient_times(grid, job(), cluster(32), stack())
    assert np.all(np.diff(times.reduce) < 0)
    assert np.all(np.diff(times.optimizer) < 0)
    assert list(times.num_buckets) == [34, 17, 9, 5]
