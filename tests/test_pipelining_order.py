"""The schedules that torch runs are those that the planner prices: every rank's passes in the same order."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from planner.plan import Plan
from planner.work.actions import Kind
from planner.work.schedules import SCHEDULES
from validate.parallel.pipeline import MANY_STAGES, held_chunks

CHUNKS = {"zb-h1": 1}
"""Chunks a rank; two of the others."""


def torch_order(plan: Plan, rank: int, num_microbatches: int) -> list[str]:
    """The passes of a rank as torch's schedule has them, without those that wait for others."""
    num_chunks = plan.pp * plan.vp
    stages: list[Any] = [
        SimpleNamespace(
            stage_index=chunk, num_stages=num_chunks, group_size=plan.pp, group_rank=rank, submod=None,
            is_first=chunk == 0, is_last=chunk == num_chunks - 1, device="cpu", has_backward=True,
        )
        for chunk in held_chunks(plan, rank)
    ]  # fmt: skip
    schedule = MANY_STAGES[plan.schedule](stages, num_microbatches, loss_fn=lambda outputs, targets: outputs)
    actions = [action for action in schedule.pipeline_order[rank] if action is not None]
    return [str(part) for action in actions for part in (action.sub_actions or (action,))]


def without_weights(order: list[str]) -> list[str]:
    """Which of the weight gradients that wait runs first is left open: their chunk and microbatch are dropped."""
    weight = Kind.BACKWARD_WEIGHT.value
    return [weight if weight in name else name for name in order]


@pytest.mark.parametrize(("num_stages", "num_microbatches"), [(2, 4), (4, 8), (4, 16)])
@pytest.mark.parametrize("name", sorted(set(MANY_STAGES) - {"breadth-first"}))
def test_torch_runs_the_passes_in_the_planner_s_order(name: str, num_stages: int, num_microbatches: int) -> None:
    plan = Plan(pp=num_stages, vp=CHUNKS.get(name, 2), schedule=name)  # type: ignore[arg-type]
    planned = SCHEDULES[name].actions(num_stages, num_microbatches, plan.vp)
    for rank, actions in enumerate(planned):
        ours, theirs = [str(action) for action in actions], torch_order(plan, rank, num_microbatches)
        assert without_weights(theirs) == without_weights(ours)
        assert sorted(theirs) == sorted(ours)


def test_torch_runs_backward_passes_breadth_first_from_the_last_microbatch() -> None:
    plan = Plan(pp=2, vp=2, schedule="breadth-first")
    for rank, actions in enumerate(SCHEDULES["breadth-first"].actions(2, 4, 2)):
        mirrored = [
            str(action if action.kind is Kind.FORWARD else action._replace(microbatch=3 - action.microbatch))
            for action in actions
        ]
        assert torch_order(plan, rank, 4) == mirrored
