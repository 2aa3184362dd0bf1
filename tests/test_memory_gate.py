"""Memory of real ranks: what tensors hold, and the resident set, beside the estimate."""

import pytest

from planner.cost.memory import memory
from planner.plan import Plan
from planner.recompute import Recompute
from profiles import catalog
from tests.features import job, run

pytest.importorskip("torch")

JOB = {"global_batch": 8, "sequence_length": 128}
PLANS = {
    "one rank": Plan(micro_batch=2),
    "dp": Plan(dp=2, micro_batch=2),
    "zero1": Plan(dp=2, micro_batch=2, zero_stage=1),
    "fsdp": Plan(dp=2, micro_batch=4, zero_stage=3),
    "tp": Plan(tp=2, micro_batch=2),
    "gpipe": Plan(pp=2, micro_batch=2, schedule="gpipe"),
    "recompute": Plan(micro_batch=2, recompute=Recompute.FULL),
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_ranks_hold_what_is_estimated(plan: Plan) -> None:
    model, stack = catalog.model("gpt-20m"), catalog.software("pytorch-eager-cpu")
    results = run(plan, model, num_warmup=2, num_steps=1, measure_memory=True, **JOB)
    estimated = memory(plan, job(model, **JOB), stack)
    tensors = max(result["memory"]["tensor_bytes"] for result in results)
    resident = max(result["memory"]["allocated_bytes"] for result in results)
    assert float(estimated.allocated_bytes) == pytest.approx(tensors, rel=0.01)
    assert float(estimated.peak_bytes) == pytest.approx(resident, rel=0.03)
