"""Experts and context parallelism: how meshes fold, and what their messages carry and hide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.collectives import message_seconds
from planner.cost.estimate import estimate
from planner.plan import Plan
from planner.work.layers import layer_parameters, layer_work, sequence
from planner.work.ops import Elementwise, Message
from planner.work.routing import Routing
from profiles.parameters import trained_fraction
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


def step_parts(plan: Plan, precision: str = "bf16", **fields: object) -> dict[str, float]:
    work = job("mixtral-8x7b", sequence_length=4096, precision=precision)
    found = estimate(plan, work, cluster(64, "dgx-h100"), stack("megatron-core", **fields))
    return {name: float(value) for name, value in found.breakdown.parts().items()}


SPREAD = Plan(dp=64, ep=8, zero_stage=1)


def test_an_exchange_beside_compute_costs_its_share_of_the_device() -> None:
    exposed = step_parts(SPREAD)["ep"]
    hidden = step_parts(SPREAD, ep_exposed_fraction=0.2)["ep"]
    assert hidden == pytest.approx(0.2 * exposed)


def test_an_exchange_longer_than_the_compute_beside_it_shows() -> None:
    """Eight experts over 64 nodes of one slow link each outlast the products."""
    work = job("mixtral-8x7b", sequence_length=4096)
    slow = cluster(64, "dgx-h100")
    tiers = tuple(tier.model_copy(update={"bytes_per_second": 1e-3 * tier.bytes_per_second}) for tier in slow.tiers)
    devices = slow.model_copy(update={"tiers": tiers})
    found = estimate(SPREAD, work, devices, stack("megatron-core", ep_exposed_fraction=0.0)).breakdown.parts()
    assert found["ep"] > found["forward"] + found["backward"]


def test_a_fused_dispatch_sends_a_token_once_to_a_port() -> None:
    """Two of eight experts on two ranks: 1.5 ranks a token in the mean, in place of 2 copies."""
    nodes = cluster(64, "dgx-h100")
    plain, fused = (
        message_seconds("all_to_all", 1e9, 2, 1, nodes, routing=routing) for routing in (None, Routing(2.0))
    )  # fmt: skip
    assert fused == pytest.approx(0.75 * plain, rel=0.02)
    across, once_a_node = (
        message_seconds("all_to_all", 1e9, 64, 1, nodes, routing=routing) for routing in (None, Routing(8.0))
    )  # fmt: skip
    assert once_a_node == pytest.approx(across * (1.0 - (7 / 8) ** 8), rel=0.02)
    assert step_parts(SPREAD, expert_dispatch="fused")["ep"] < step_parts(SPREAD)["ep"]


def test_groups_of_experts_reach_few_nodes() -> None:
    """Experts in 4 of 8 groups, a group a node: 4 nodes a token; 5.2 of 8 where any experts are chosen."""
    free, limited = Routing(8.0), Routing(8.0, 8.0, 4.0)
    assert float(limited.ports_reached(8.0)) == pytest.approx(4.0)
    assert float(free.ports_reached(8.0)) == pytest.approx(8.0 * (1.0 - (7 / 8) ** 8))
    assert float(limited.ports_reached(64.0)) < float(free.ports_reached(64.0)) < 8.0
    assert float(limited.ports_reached(1.0)) == float(free.ports_reached(1.0)) == 1.0


def test_tokens_travel_to_experts_in_the_format_the_stack_says() -> None:
    """Gradients of what experts give go that way too; the ways back stay in 16 bits."""
    work, plan = job("deepseek-v3"), Plan(dp=64, ep=32)
    for precision, forth in (("model", 2.0), ("fp8", 1.0 + 4.0 / 128.0)):
        software = stack("megatron-core", expert_dispatch="deepep", expert_dispatch_precision=precision)
        steps = layer_work(work, "moe", plan, software)
        for one in (steps.forward, steps.backward):
            out, back = (op.num_bytes for op, _ in one.ops if isinstance(op, Message) and op.axis == "ep")
            assert out / back == pytest.approx(forth / 2.0)


def test_a_loop_over_experts_is_paid_by_the_host() -> None:
    assert step_parts(SPREAD, host_seconds_per_launch=1e-6)["host"] == pytest.approx(0.0, abs=1e-6)
    together = step_parts(Plan(dp=64), host_seconds_per_launch=3e-3)["host"]
    assert step_parts(Plan(dp=64), host_seconds_per_launch=3e-3, loops_over_experts=True)["host"] > 1.2 * together > 0.0


def test_narrow_formats_move_the_rows_of_experts_more_often() -> None:
    def moved(precision: str) -> float:
        work = job("mixtral-8x7b", sequence_length=4096, precision=precision)
        ops = layer_work(work, "moe", Plan(), stack("megatron-core")).forward.ops
        return sum(float(count * op.num_bytes) for op, count in ops if isinstance(op, Elementwise))

    assert moved("fp8") > 1.1 * moved("bf16")


def test_block_scaled_formats_pay_for_their_second_layout() -> None:
    devices, megatron = cluster(8, "gb200"), stack("megatron-core")

    def seconds(precision: str) -> float:
        work = job("llama3-8b", global_batch=16, sequence_length=8192, precision=precision)
        return float(estimate(Plan(dp=8), work, devices, megatron).step_seconds)

    assert seconds("fp8") < seconds("mxfp8") < seconds("bf16")
    assert seconds("nvfp4") < seconds("bf16")


def trained(lora_rank: int) -> TrainingJob:
    return job("llama3-8b", sequence_length=4096).model_copy(update={"lora_rank": lora_rank})


def test_frozen_weights_have_no_weight_gradients() -> None:
    """Forward and data gradients are left of a step, and little more memory than the weights."""
    devices, megatron = cluster(8, "dgx-h100"), stack("megatron-core")
    everything, adapters = (estimate(Plan(dp=8, zero_stage=1), trained(rank), devices, megatron) for rank in (0, 16))
    whole, frozen = everything.breakdown.parts(), adapters.breakdown.parts()
    assert frozen["backward"] < 0.8 * whole["backward"]
    assert frozen["dp"] < 0.01 * whole["dp"]
    assert frozen["optimizer"] < 0.01 * whole["optimizer"]
    assert adapters.memory.weights_bytes == everything.memory.weights_bytes
    assert adapters.memory.optimizer_bytes + adapters.memory.gradients_bytes < 0.01 * everything.memory.gradients_bytes


@given(st.integers(1, 512))
def test_wider_adapters_cost_more(rank: int) -> None:
    assert trained_fraction(trained(0).model, 0) == 1.0
    assert 0.0 < trained_fraction(trained(rank).model, rank) < trained_fraction(trained(rank).model, rank + 1) < 1.0


def test_the_busiest_rank_decides_and_capacity_bounds_it() -> None:
    devices, megatron = cluster(64, "dgx-h100"), stack("megatron-core")

    def seconds(**fields: float) -> float:
        work = SPARSE.model_copy(update=fields)
        return float(estimate(SPREAD, work, devices, megatron).step_seconds)

    balanced, uneven = seconds(), seconds(expert_load_factor=1.5)
    assert balanced < uneven < 1.5 * balanced
    assert seconds(expert_load_factor=1.5, expert_capacity_factor=1.0) == balanced
    assert balanced < seconds(expert_load_factor=1.5, expert_capacity_factor=1.25) < uneven
    assert seconds(expert_load_factor=1.5, expert_capacity_factor=2.0) == uneven


def test_a_graph_around_all_but_the_experts_leaves_their_launches() -> None:
    eager = step_parts(Plan(dp=64), host_seconds_per_launch=3e-3, loops_over_experts=True)["host"]
    partly = {"host_seconds_per_launch": 3e-3, "captures_dense_parts": True}
    assert 0.0 < step_parts(Plan(dp=64), loops_over_experts=True, **partly)["host"] < eager
    assert (
        step_parts(Plan(dp=64), **partly)["host"] < step_parts(Plan(dp=64), loops_over_experts=True, **partly)["host"]
    )
