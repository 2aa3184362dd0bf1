"""What a split makes of a layer: parameters and work are conserved, whatever the split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import Plan, PlanGrid, Recompute
from planner.recompute import Module
from planner.work.layers import (
    boundary_bytes,
    layer_parameters,
    layer_work,
    model_flops,
    num_blocks,
    sequence,
    stage_counts,
)
from planner.work.ops import Attention, Gemm, Message
from profiles.catalog import model, names, software
from profiles.model import LayerList
from profiles.workload import TrainingJob

SMALL = ("llama3-8b", "gpt3-6.7B", "mixtral-8x7b", "deepseek-v2-lite", "t5-base", "resnet-50")


def job_of(name: str, sequence_length: int = 2048) -> TrainingJob:
    return TrainingJob(model=model(name), global_batch=8, sequence_length=sequence_length)


def flops_of(job: TrainingJob, plan: Plan, *, backward: bool) -> float:
    """FLOPs of one microbatch on all ranks of one replica."""
    total = 0.0
    for kind in set(sequence(job.model)):
        work = layer_work(job, kind, plan, software("megatron-lm-2022"))
        ops = (*work.backward.ops, *work.backward.recomputed) if backward else work.forward.ops
        flops = sum(count * op.flops for op, count in ops if not isinstance(op, Message))
        total += float(flops) * sequence(job.model).count(kind)
    return total * plan.tp * plan.cp


@pytest.mark.parametrize("name", SMALL)
@given(chunks=st.integers(1, 48))
def test_stages_share_all_layers(name: str, chunks: int) -> None:
    shape = model(name)
    counts = stage_counts(shape, chunks)
    assert len(counts) == chunks
    for kind in set(sequence(shape)):
        assert sum(stage.get(kind, 0) for stage in counts) == sequence(shape).count(kind)
    blocks = [sum(count for kind, count in stage.items() if kind not in ("embedding", "head")) for stage in counts]
    assert sum(blocks) == num_blocks(shape)
    assert max(blocks) - min(blocks) <= 1


@pytest.mark.parametrize("name", ["llama3-8b", "gpt3-6.7B", "mixtral-8x7b"])
@given(tp=st.sampled_from([1, 2, 4, 8]), cp=st.sampled_from([1, 2, 4]), sequence_parallel=st.booleans())
def test_matrix_work_is_conserved_across_splits(name: str, tp: int, cp: int, sequence_parallel: bool) -> None:
    """tp and cp divide the products; only what every tp rank repeats (the router) is done more than once."""
    job = job_of(name)
    plan = Plan(tp=tp, cp=cp, etp=1 if sequence_parallel else tp, sequence_parallel=sequence_parallel)
    for backward in (False, True):
        assert flops_of(job, plan, backward=backward) == pytest.approx(
            flops_of(job, Plan(), backward=backward), rel=1e-3
        )


@pytest.mark.parametrize("name", ["llama3-8b", "mixtral-8x7b", "deepseek-v2-lite", "resnet-50"])
def test_recomputation_adds_at_most_one_forward_pass(name: str) -> None:
    job = job_of(name, 1 if name == "resnet-50" else 2048)
    forward = flops_of(job, Plan(), backward=False)
    none, selective, full, operators = (flops_of(job, Plan(recompute=policy), backward=True) for policy in Recompute)
    assert none == pytest.approx(2 * forward, rel=0.02)
    assert none <= selective <= full <= none + forward
    assert none <= operators <= full


def test_each_module_runs_again_what_lies_in_it() -> None:
    """DeepSeek-V2's sparse layer: modules alone add up to no more than the layer, and the mlp has no part in it."""
    job = job_of("deepseek-v2-lite")

    def again(modules: Module, kind: str = "moe") -> float:
        plan = Plan(recompute=Recompute.SELECTIVE, recompute_modules=modules)
        work = layer_work(job, kind, plan, software("megatron-core"))
        return sum(float(np.sum(count)) * float(op.flops) for op, count in work.backward.recomputed
                   if not isinstance(op, Message))  # fmt: skip

    assert again(Module.MOE) > again(Module.SHARED_EXPERTS) > 0.0
    assert again(Module.MLA_UP_PROJ) > 0.0
    assert again(Module.CORE_ATTN) > 0.0
    assert again(Module.MLP) == again(Module.LAYERNORM) == again(Module.MOE_ACT) == 0.0  # no matrix products
    assert again(Module.MLP, "dense") > 0.0
    both = again(Module.MOE | Module.CORE_ATTN)
    assert both == pytest.approx(again(Module.MOE) + again(Module.CORE_ATTN))


def test_recomputing_some_layers_costs_their_share() -> None:
    job = job_of("llama3-8b")
    none, all_layers, half = (
        flops_of(job, Plan(pp=4, **changes), backward=True)
        for changes in ({}, {"recompute": Recompute.FULL}, {"recompute": Recompute.FULL, "recompute_layers": 4})
    )
    assert half == pytest.approx((none + all_layers) / 2)


def test_operators_run_every_second_product_again() -> None:
    """Of Llama's q, k, v, o, gate, up and down: k, o and up."""
    job = job_of("llama3-8b")
    shape = job.model
    h, q, k, f = shape.hidden_size, 4096, 1024, shape.ffn_size
    work = layer_work(job, "dense", Plan(recompute=Recompute.OPERATORS), software("torchtitan"))
    found = sum(float(count) * float(op.flops) for op, count in work.backward.recomputed if isinstance(op, Gemm))
    assert found == pytest.approx(2 * 2048 * h * (k + q + f))


def test_expert_parameters_are_spread_over_ep() -> None:
    shape = model("mixtral-8x7b")
    dense, expert = layer_parameters(shape, "moe", Plan())
    spread_dense, spread = layer_parameters(shape, "moe", Plan(dp=4, ep=4))
    assert spread == expert / 4
    assert spread_dense == dense


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_dense_layer_sends_what_the_papers_count(sequence_parallel: bool) -> None:
    """Two all-reduces a pass, or as many gathers and scatters; sequence parallelism gathers again for weights."""
    job, plan = job_of("gpt3-6.7B"), Plan(tp=8, sequence_parallel=sequence_parallel)
    work = layer_work(job, "dense", plan, software("megatron-lm-2022"))

    def count(ops: tuple, collective: str) -> float:
        return sum(float(times) for op, times in ops if isinstance(op, Message) and op.collective == collective)

    full = 2.0 * 2048 * 4096
    assert {float(op.num_bytes) for op, _ in work.forward.ops if isinstance(op, Message) and op.axis == "tp"} == {full}
    if sequence_parallel:
        assert [count(work.forward.ops, name) for name in ("all_gather", "reduce_scatter", "all_reduce")] == [2, 2, 0]
        assert [count(work.backward.ops, name) for name in ("all_gather", "reduce_scatter", "all_reduce")] == [4, 2, 0]
    else:
        assert [count(work.forward.ops, name) for name in ("all_gather", "reduce_scatter", "all_reduce")] == [0, 0, 2]
        assert [count(work.backward.ops, name) for name in ("all_gather", "reduce_scatter", "all_reduce")] == [0, 0, 2]


@pytest.mark.parametrize(
    ("name", "lora_rank"),
    [
        *((name, 0) for name in names("models") if not getattr(model(name), "sliding_window", None)
          and not getattr(model(name), "linear_attention", None)),
        ("llama3-8b", 16), ("deepseek-v2-lite", 16), ("mixtral-8x7b", 8), ("qwen3-0.6b", 64),
    ],
)  # fmt: skip
def test_operations_add_up_to_the_model_flops(name: str, lora_rank: int) -> None:
    """Unfused attention does every pair, as the numerator of MFU counts them; frozen weights have no gradient."""
    length = 1 if isinstance(model(name), LayerList) else 2048
    job = job_of(name, length).model_copy(update={"lora_rank": lora_rank})
    plain = software("megatron-lm-2022").model_copy(update={"vocabulary_multiple": 1})
    total = 0.0
    for kind in set(sequence(job.model)):
        work = layer_work(job, kind, Plan(), plain)
        ops = (*work.forward.ops, *work.backward.ops)
        flops = sum(float(count * op.flops) for op, count in ops if not isinstance(op, Message))
        total += flops * sequence(job.model).count(kind)
    assert 8 * total == pytest.approx(model_flops(job), rel=1e-9)


def test_a_window_leaves_its_share_of_pairs() -> None:
    """s w - w^2 / 2 pairs in a windowed layer, s^2 / 2 in a full one."""
    windowed, whole = model("mistral-7b-v0.1"), model("mistral-7b-v0.1").model_copy(update={"sliding_window": None})

    def pairs(shape: object) -> float:
        job = TrainingJob(model=shape, global_batch=1, sequence_length=32768)
        ops = layer_work(job, "dense", Plan(), software("megatron-core")).forward.ops
        return sum(op.flops for op, _ in ops if isinstance(op, Attention))

    share = (32768 * 4096 - 4096**2 / 2) / (32768**2 / 2)
    assert pairs(windowed) == pytest.approx(share * pairs(whole))


def test_a_grid_and_its_plans_do_the_same_work() -> None:
    job = job_of("llama3-8b")
    grid = PlanGrid.product(tp=[1, 2, 8], micro_batch=[1, 4], recompute=list(Recompute), sequence_parallel=[0, 1])
    stack = software("megatron-core")
    together = layer_work(job, "dense", grid, stack).backward
    for row, plan in enumerate(grid):
        alone = layer_work(job, "dense", plan, stack).backward
        for (op, count), (one, once) in zip(together.ops, alone.ops, strict=True):
            assert np.broadcast_to(op.num_bytes, len(grid))[row] == pytest.approx(float(one.num_bytes))
            assert np.broadcast_to(count, len(grid))[row] == float(once)


def test_scatter_gather_divides_transfers() -> None:
    job = job_of("gpt3-6.7B")
    assert boundary_bytes(job, Plan(tp=8), software("megatron-lm-2022")) == 2 * 2048 * 4096 / 8
    whole = software("megatron-lm-2022").model_copy(update={"p2p_scatter_gather": False})
    assert boundary_bytes(job, Plan(tp=8), whole) == 2 * 2048 * 4096
