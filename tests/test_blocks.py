"""Experts and context parallelism: how meshes fold, and what their messages carry and hide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.estimate import estimate
from planner.plan import Plan
from planner.work.layers import layer_parameters, layer_work, sequence
from planner.work.ops import Message
from profiles.workload import TrainingJob
from tests.scenes import cluster, job, stack

SPARSE = job("mixtral-8x7b", sequence_length=4096)
LONG = job("llama3-8b", global_batch=8, sequence_length=65536)


def flops(work: TrainingJob, plan: Plan) -> float:
    """Forward and backward FLOPs of all layers of one microbatch on one rank, times the ranks that share it."""
    total = 0.0
    for kind in sequence(work.model):
        layer = layer_work(work, kind, plan, stack("megatron-core"))
        ops = (*layer.forward.ops, *layer.backward.ops)
        total += sum(float(count * op.flops) for op, count in ops if not isinstance(op, Message))
    return total * plan.tp * plan.cp


def message_bytes(work: TrainingJob, plan: Plan, kind: str, axis: str) -> float:
    layer = layer_work(work, kind, plan, stack("megatron-core"))
    ops = (*layer.forward.ops, *layer.backward.ops)
    return sum(float(count * op.num_bytes) for op, count in ops if isinstance(op, Message) and op.axis == axis)


@given(
    tp=st.sampled_from([1, 2, 4]), etp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 2, 4, 8]),
    cp=st.sampled_from([1, 2]),
)  # fmt: skip
def test_expert_work_is_conserved_however_the_expert_mesh_folds(tp: int, etp: int, ep: int, cp: int) -> None:
    folded = Plan(dp=8, tp=tp, cp=cp, ep=ep, etp=etp, sequence_parallel=tp > 1)
    assert flops(SPARSE, folded) == pytest.approx(flops(SPARSE, Plan()), rel=1e-3)


@given(tp=st.sampled_from([1, 2, 4]), etp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 2, 4, 8]))
def test_all_experts_are_held_once_by_the_expert_mesh(tp: int, etp: int, ep: int) -> None:
    whole = float(layer_parameters(SPARSE.model, "moe", Plan())[1])
    held = float(layer_parameters(SPARSE.model, "moe", Plan(dp=8, tp=tp, ep=ep, etp=etp, sequence_parallel=tp > 1))[1])
    assert held * etp * ep == pytest.approx(whole)


def test_whole_experts_need_no_gathering_and_shared_ones_do() -> None:
    whole = Plan(dp=4, tp=4, ep=4, sequence_parallel=True)
    shared = Plan(dp=4, tp=4, ep=4, etp=4, sequence_parallel=True)
    assert message_bytes(SPARSE, whole, "moe", "etp") == 0.0
    assert message_bytes(SPARSE, shared, "moe", "etp") > 0.0
    assert message_bytes(SPARSE, whole, "moe", "ep") == message_bytes(SPARSE, shared, "moe", "ep") > 0.0


@pytest.mark.parametrize("model", ["llama3-8b", "deepseek-v2-lite"])
@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("a2a", [1, 2, 4])
def test_attention_work_is_conserved_however_the_sequence_is_split(model: str, a2a: int, gather: bool) -> None:
    work = job(model, global_batch=8, sequence_length=32768)
    plan = Plan(cp=4, cp_a2a=a2a, cp_gather=gather and a2a < 4)
    assert flops(work, plan) == pytest.approx(flops(work, Plan()), rel=1e-3)


def test_an_all_to_all_carries_less_than_keys_that_go_all_the_way_round() -> None:
    """Of many heads, each rank sends (n-1)/n of its tokens' queries, keys and values once, not n-1 times [Ulysses]."""
    work = job("gpt3-6.7B", global_batch=8, sequence_length=32768)
    ring = message_bytes(work, Plan(cp=8), "dense", "cp_ring")
    traded = message_bytes(work, Plan(cp=8, cp_a2a=8), "dense", "cp_a2a")
    assert 0.0 < traded < ring
    assert message_bytes(work, Plan(cp=8, cp_a2a=8), "dense", "cp_ring") == 0.0
    assert message_bytes(work, Plan(cp=8), "dense", "cp_a2a") == 0.0


def test_a_ring_hides_behind_long_attention_and_not_behind_short() -> None:
    devices, megatron = cluster(64), stack("megatron-core")

    def exposed(tokens: int, plan: Plan) -> float:
        work = job("llama3-8b", global_batch=8, sequence_length=tokens)
        found = estimate(plan, work, devices, megatron)
        return float(found.breakdown.parts()["cp"] / found.step_seconds)

    short, long = (exposed(tokens, Plan(dp=4, cp=16)) for tokens in (8192, 1_048_576))
    assert short > 0.02
    assert long == 0.0
    assert exposed(1_048_576, Plan(dp=4, cp=16, cp_gather=True)) > 0.0


def test_a_million_tokens_are_mostly_attention() -> None:
    devices, megatron = cluster(64), stack("megatron-core")
    work = job("llama3-8b", global_batch=4, sequence_length=1_048_576)
    tokens = estimate(Plan(dp=1, tp=2, cp=32, sequence_parallel=True), work, devices, megatron)
    short_work = job("llama3-8b", global_batch=512, sequence_length=8192)
    short = estimate(Plan(dp=8, tp=2, cp=4, sequence_parallel=True), short_work, devices, megatron)
    assert 5.0 < tokens.step_seconds / short.step_seconds < 100.0


def test_faster_links_never_slow_a_ring_down() -> None:
    megatron = stack("megatron-core")
    times = []
    for scale in (1.0, 2.0, 4.0):
        slow = cluster(64)
        tiers = tuple(tier.model_copy(update={"bytes_per_second": scale * tier.bytes_per_second})
                      for tier in slow.tiers)  # fmt: skip
        faster = slow.model_copy(update={"tiers": tiers})
        times.append(float(estimate(Plan(dp=4, cp=16), LONG, faster, megatron).step_seconds))
    assert times[0] >= times[1] >= times[2]
