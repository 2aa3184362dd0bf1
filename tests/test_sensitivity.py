"""More of a resource never makes a step slower, neither a plan's nor the best plan's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.sensitivity import RESOURCES, sensitivity
from planner.cost.estimate import estimate
from planner.plan import Plan
from tests.scenes import cluster, job, stack

PLANS = [Plan(dp=16), Plan(dp=2, tp=4, pp=2), Plan(tp=16), Plan(pp=4, dp=4, vp=2, schedule="interleaved"),
         Plan(dp=8, cp=2, zero_stage=1)]  # fmt: skip


@given(st.sampled_from(sorted(RESOURCES)), st.sampled_from(PLANS), st.floats(1.0, 8.0), st.sampled_from([8, 64, 512]))
def test_more_is_never_slower(resource: str, plan: Plan, factor: float, batch: int) -> None:
    batch = max(batch, plan.dp * plan.pp)
    before = estimate(plan, job(global_batch=batch), cluster(16), stack()).step_seconds
    after = estimate(plan, job(global_batch=batch), *RESOURCES[resource](cluster(16), stack(), factor)).step_seconds
    assert after <= before * (1.0 + 1e-9)


def test_the_best_plan_gains_from_everything_or_nothing() -> None:
    found = sensitivity(Plan(dp=2, tp=8), job(), cluster(16), stack())
    effects = {effect.resource: effect for effect in found.effects}
    assert set(effects) == set(RESOURCES)
    for effect in found.effects:
        assert effect.plan_fraction <= 1e-9
        assert effect.best_fraction is not None
        assert effect.best_fraction <= 1e-9
    assert effects["memory size"].plan_fraction == pytest.approx(0.0)
    assert -1.0 / 11.0 <= effects["matmul rate"].plan_fraction < -0.01


def test_nothing_fits_is_said() -> None:
    found = sensitivity(Plan(dp=8), job("llama3.1-405b"), cluster(8), stack())
    assert found.best_plan is None
    assert all(effect.best_fraction is None for effect in found.effects)
