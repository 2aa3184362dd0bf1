"""Plans that differ in one field only are priced apart: no list of columns forgets a field."""

from dataclasses import replace

import pytest

from planner.cost.estimate import estimate
from planner.offload import Offload
from planner.plan import PLAN_FIELDS, Plan, PlanGrid, Recompute
from planner.recompute import Module
from tests.scenes import cluster, job, stack

DENSE = Plan(dp=2, tp=2, pp=2, cp=2, vp=2, schedule="interleaved", zero_stage=1, dp_replicate=2)
SHARDED = Plan(dp=8, tp=2, zero_stage=3)
CHANGES = {
    "dp": (DENSE, {"dp": 4}),
    "tp": (DENSE, {"tp": 4}),
    "pp": (DENSE, {"pp": 4}),
    "cp": (DENSE, {"cp": 4}),
    "ep": (DENSE, {"ep": 2}),
    "etp": (DENSE, {"etp": 2}),
    "cp_a2a": (DENSE, {"cp_a2a": 2}),
    "cp_gather": (DENSE, {"cp_gather": True}),
    "vp": (DENSE, {"vp": 4}),
    "layout": (DENSE, {"layout": (9, 8, 8, 7)}),
    "micro_batch": (DENSE, {"micro_batch": 2}),
    "schedule": (DENSE, {"schedule": "breadth-first"}),
    "recompute": (DENSE, {"recompute": Recompute.FULL}),
    "recompute_modules": (replace(DENSE, recompute=Recompute.SELECTIVE), {"recompute_modules": Module.LAYERNORM}),
    "recompute_layers": (replace(DENSE, recompute=Recompute.FULL), {"recompute_layers": 2}),
    "offload": (DENSE, {"offload": Offload.OPTIMIZER}),
    "sequence_parallel": (DENSE, {"sequence_parallel": True}),
    "zero_stage": (SHARDED, {"zero_stage": 1}),
    "reshard_after_forward": (SHARDED, {"reshard_after_forward": False}),
    "dp_replicate": (SHARDED, {"dp_replicate": 2}),
    "order": (DENSE, {"order": "tp-cp-pp-dp"}),
}
"""Field -> a plan, and what sets the field to a value that costs something else."""


def test_every_field_of_a_plan_is_changed_once() -> None:
    assert set(CHANGES) == set(PLAN_FIELDS) - {"placement"}  # on clusters of one kind of nodes there is none
    assert all(set(change) == {field} for field, (_, change) in CHANGES.items())


@pytest.mark.parametrize("field", CHANGES)
def test_plans_that_differ_in_one_field_cost_what_they_cost_alone(field: str) -> None:
    base, change = CHANGES[field]
    plans = (base, replace(base, **change))  # type: ignore[arg-type]
    work, devices, software = job("mixtral-8x7b"), cluster(16), stack()
    together = estimate(PlanGrid.of(plans), work, devices, software)
    alone = [estimate(plan, work, devices, software) for plan in plans]
    for row, priced in enumerate(alone):
        assert together.row(row).breakdown.parts() == pytest.approx(priced.breakdown.parts(), rel=1e-9, abs=1e-15)
        assert together.row(row).memory.parts() == pytest.approx(priced.memory.parts(), rel=1e-9)
    costs = [(*priced.breakdown.parts().values(), *priced.memory.parts().values()) for priced in alone]
    assert costs[0] != costs[1]
