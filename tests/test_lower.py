"""A lowered program does the work of its plan: nothing lost, nothing twice."""

import pytest

from planner.plan import Plan, Recompute
from planner.work.layers import layer_parameters, layer_work, sequence
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import Kind, check, program_bytes, program_flops
from tests.scenes import job, stack

PLANS = (
    Plan(),
    Plan(dp=4, zero_stage=1),
    Plan(tp=4, sequence_parallel=True, recompute=Recompute.SELECTIVE),
    Plan(pp=4, schedule="gpipe"),
    Plan(pp=8, dp=2, recompute=Recompute.FULL),
    Plan(dp=2, tp=2, pp=4, vp=2, schedule="interleaved", micro_batch=2),
)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("model", ["gpt3-6.7B", "mixtral-8x7b"])
def test_programs_can_be_run_and_hold_all_flops(model: str, plan: Plan) -> None:
    work = job(model, global_batch=32)
    program = lower(plan, work, stack())
    check(program)
    per_microbatch = 0.0
    for kind in set(sequence(work.model)):
        layer = layer_work(work, kind, plan, stack())
        ops = (*layer.forward.ops, *layer.backward.ops, *layer.backward.recomputed)
        flops = sum(float(count * op.flops) for op, count in ops if not isinstance(op, Message))
        per_microbatch += flops * sequence(work.model).count(kind)
    assert program_flops(program) == pytest.approx(per_microbatch * plan.num_microbatches(32))


def test_gradients_of_all_parameters_are_reduced_once() -> None:
    plan = Plan(dp=2, tp=2, pp=4, vp=2, schedule="interleaved", zero_stage=1)
    work = job(global_batch=32)
    held = sum(sum(map(float, layer_parameters(work.model, kind, plan))) for kind in sequence(work.model))
    moved = program_bytes(lower(plan, work, stack(gradient_bytes=4.0)))
    assert moved["dp-shard"] == pytest.approx((4.0 + 2.0) * held)  # fp32 gradients out, 16-bit parameters in


def test_experts_are_reduced_over_what_ep_leaves() -> None:
    program = lower(Plan(dp=8, ep=4), job("mixtral-8x7b"), stack())
    axes = {op.axis for op, _ in program.work[Kind.REDUCE_GRADIENTS, 0].ops if isinstance(op, Message)}
    assert axes == {"dp", "edp"}


def test_replicated_optimizers_gather_nothing() -> None:
    program = lower(Plan(dp=4), job(), stack())
    assert not program.work[Kind.GATHER_PARAMETERS, 0].ops
    assert all(action.kind is not Kind.GATHER_PARAMETERS for action in program.ranks[0])


def test_activations_of_all_layers_are_kept() -> None:
    whole = sum(lower(Plan(), job(), stack()).activation_bytes)
    assert sum(lower(Plan(pp=4), job(), stack()).activation_bytes) == pytest.approx(whole)
    assert sum(lower(Plan(recompute=Recompute.FULL), job(), stack()).activation_bytes) < whole / 4


def test_a_batch_without_a_microbatch_is_refused() -> None:
    with pytest.raises(ValueError, match="global_batch: 4 is too small for dp=8"):
        lower(Plan(dp=8), job(global_batch=4), stack())


def test_sgd_updates_move_less_than_adam() -> None:
    adam, sgd = (
        lower(Plan(), job(optimizer=name), stack()).work[Kind.OPTIMIZER, 0].ops[0][0] for name in ("adam", "sgd")
    )
    held = sum(sum(map(float, layer_parameters(job().model, kind, Plan()))) for kind in sequence(job().model))
    assert adam.num_bytes - sgd.num_bytes == pytest.approx(8.0 * held)
