"""The space holds every split of the devices, and nothing that was fixed away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.knobs import KNOBS, Setting, Split, divisors
from planner.choose.space import Space, splits
from planner.plan import PLAN_FIELDS, Plan, PlanGrid
from tests.scenes import cluster, job, plan_space, stack


@given(st.integers(1, 5000))
def test_divisors_divide(number: int) -> None:
    assert divisors(number) == [factor for factor in range(1, number + 1) if number % factor == 0]


def test_every_split_fills_the_cluster() -> None:
    found = list(splits(job("llama3-8b", sequence_length=8192), cluster(64)))
    assert all(split.tp * split.pp * split.cp * split.dp == 64 for split in found)
    assert len(found) == len(set(found))
    assert {split.tp for split in found} == {1, 2, 4, 8, 16, 32}
    assert {split.cp for split in found} == {1, 2}


def test_fixed_fields_are_fixed() -> None:
    grid = plan_space(job("llama3-8b"), cluster(64), {"tp": 8, "recompute": 2, "micro_batch": 4})
    assert len(grid)
    assert set(grid.tp) == {8}
    assert set(grid.recompute) == {2}
    assert set(grid.micro_batch) == {4}


def test_a_value_no_split_offers_leaves_nothing() -> None:
    assert len(plan_space(job("llama3-8b"), cluster(64), {"tp": 7})) == 0


def test_a_list_of_layers_is_split_over_data_and_stages_only() -> None:
    grid = plan_space(job("resnet-50", sequence_length=1), cluster(8))
    assert np.all((grid.tp == 1) & (grid.cp == 1) & (grid.ep == 1))
    assert set(grid.dp * grid.pp) == {8}


def test_experts_are_spread_in_mixture_models_only() -> None:
    assert set(plan_space(job("llama3-8b"), cluster(8)).ep) == {1}
    assert set(plan_space(job("mixtral-8x7b"), cluster(8)).ep) == {1, 2, 4, 8}


@pytest.mark.parametrize("size", [1000, 7777, 10**9])
def test_chunks_are_the_space_in_order(size: int) -> None:
    whole = plan_space(job("mixtral-8x7b"), cluster(16))
    chunks = list(Space(job("mixtral-8x7b"), cluster(16), orders=stack().rank_orders).chunks(size))
    assert all(len(chunk) == size for chunk in chunks[:-1])
    for name in PLAN_FIELDS:
        assert np.array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), getattr(whole, name))


def test_places_of_the_space_can_be_taken() -> None:
    work, devices = job("mixtral-8x7b"), cluster(16)
    space, whole = Space(work, devices, orders=stack().rank_orders), plan_space(work, devices)
    rows = np.arange(3, len(whole), 97)
    assert list(space.take(rows)) == list(whole.take(rows))


@pytest.mark.parametrize("exhaustive", [False, True])
def test_no_plan_is_offered_twice(exhaustive: bool) -> None:
    space = Space(job(global_batch=4), cluster(8), exhaustive=exhaustive)
    whole = next(space.chunks(len(space)))
    table = np.stack([getattr(whole, name) for name in PLAN_FIELDS], axis=1)
    assert len(np.unique(table, axis=0)) == len(table)


def test_the_usual_space_is_part_of_the_exhaustive_one() -> None:
    usual, every = (
        set(next(Space(job(global_batch=4), cluster(8), exhaustive=wide).chunks(10**6))) for wide in (False, True)
    )
    assert usual < every


def test_every_knob_sets_fields_of_a_plan_and_offers_the_simplest_first() -> None:
    setting = Setting(job(), cluster(16), Split(tp=2, pp=2, cp=1, dp=4))
    fields = [field for one in KNOBS for field in one.fields]
    assert len(fields) == len(set(fields))
    assert set(fields) <= set(PLAN_FIELDS)
    for one in KNOBS:
        first = one.table(setting, {})[0]
        assert first == tuple(int(getattr(PlanGrid.of([Plan()]), field)[0]) for field in one.fields)
