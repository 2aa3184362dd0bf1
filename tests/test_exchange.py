"""What data-parallel ranks send one another, where a job asks for more than its stack does."""

import pytest

from planner.cost.estimate import estimate
from planner.plan import Plan
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import program_bytes
from profiles.exchange import Exchange
from profiles.workload import TrainingJob
from tests.scenes import cluster, job, stack


def with_exchange(**fields: object) -> TrainingJob:
    return job().model_copy(update={"exchange": Exchange(**fields)})


def moved(work: TrainingJob, plan: Plan, collective: str) -> float:
    program = lower(plan, work, stack())
    return sum(
        float(op.num_bytes) for works in (program.work, program.layer_work) for one in works.values()
        for op, _ in one.ops if isinstance(op, Message) and op.collective == collective and "dp" in op.axis
    )  # fmt: skip


@pytest.mark.parametrize("stage", [1, 3])
def test_gathers_in_fp8_move_half_and_hold_half(stage: int) -> None:
    plan = Plan(dp=8, zero_stage=stage)
    usual, narrow = job(), with_exchange(gather_precision="fp8")
    assert moved(narrow, plan, "all_gather") == pytest.approx(0.5 * moved(usual, plan, "all_gather"))
    assert moved(narrow, plan, "reduce_scatter") == pytest.approx(moved(usual, plan, "reduce_scatter"))
    before, after = (estimate(plan, one, cluster(8), stack()) for one in (usual, narrow))
    assert after.step_seconds <= before.step_seconds
    assert after.memory.gathered_bytes == pytest.approx(0.5 * before.memory.gathered_bytes)


def test_every_axis_of_bytes_is_counted() -> None:
    program = lower(Plan(dp=8, zero_stage=3), job(), stack())
    assert program_bytes(program)["dp-shard"] > 0.0
