"""Memory of the fullest rank: measured allocator peaks, published formulas, and laws that must hold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.fit import Fit, fit_of, upper_bytes
from planner.cost.inventory import inventory
from planner.cost.memory import MemoryBreakdown, memory, stage_memory, usable_bytes
from planner.cost.states import StateBytes
from planner.plan import Plan, PlanGrid, Recompute
from profiles.catalog import cluster as cluster_of
from profiles.catalog import model, software
from profiles.model import TransformerShape
from profiles.software import default_stack, with_precisions
from profiles.units import GIB, GIGA
from profiles.workload import TrainingJob

STACK = default_stack()


def truncated(name: str, num_layers: int, **changes: object) -> TransformerShape:
    """A catalogue model cut to a few layers, as the measured runs were."""
    shape = model(name)
    assert isinstance(shape, TransformerShape)
    moe = shape.moe.model_copy(update={"num_first_dense_layers": 1}) if shape.moe else None
    return shape.model_copy(update={"num_layers": num_layers, "num_mtp_modules": 0, "moe": moe} | changes)


MEASURED = [
    # model, layers, sequence, plan, allocated GiB on a rank of each stage; MooreThreads/SimuMax@4dcaae513b
    # docs/b200/b200_release_v1.2_summary.json, eight B200, Megatron-LM 23e00ed0 with Transformer Engine 2.11,
    # microbatch 1, no recomputation, one dense first layer in the sparse models.
    ("llama3.1-70b", 12, 4096, Plan(dp=2, tp=4), (39.07,), 0.002),
    ("llama3.1-70b", 12, 4096, Plan(dp=4, pp=2), (66.55, 62.97), 0.002),
    ("llama3.1-70b", 12, 4096, Plan(dp=4, tp=2), (60.68,), 0.002),
    ("llama3.1-70b", 12, 4096, Plan(dp=1, tp=8), (28.29,), 0.002),
    ("llama3.1-405b", 4, 4096, Plan(dp=4, pp=2), (86.61, 87.08), 0.002),
    ("llama3.1-405b", 4, 4096, Plan(dp=4, tp=2), (81.59,), 0.002),
    ("llama3.1-405b", 4, 4096, Plan(dp=2, tp=4), (52.89,), 0.002),
    ("llama3.1-405b", 4, 4096, Plan(dp=1, tp=8), (38.57,), 0.002),
    ("deepseek-v2", 4, 4096, Plan(dp=8, ep=8), (45.63,), 0.01),
    ("deepseek-v2", 4, 4096, Plan(dp=4, pp=2, ep=4), (31.58, 44.70), 0.01),
    ("deepseek-v3", 4, 4096, Plan(dp=4, pp=2, ep=4), (71.24, 114.0), 0.01),
    ("deepseek-v3", 4, 4096, Plan(dp=8, ep=8), (104.3,), 0.01),
    # All-to-all context parallelism, which keeps the attention output before and after the exchange.
    ("llama3.1-70b", 12, 32768, Plan(tp=2, cp=4, cp_a2a=4), (68.43,), 0.002),
    ("llama3.1-70b", 12, 32768, Plan(cp=8, cp_a2a=8), (104.51,), 0.002),
    ("llama3.1-70b", 12, 131072, Plan(tp=2, cp=4, cp_a2a=4), (112.67,), 0.002),
    ("llama3.1-70b", 12, 131072, Plan(cp=8, cp_a2a=8), (147.99,), 0.002),
    ("llama3.1-405b", 4, 32768, Plan(tp=2, cp=4, cp_a2a=4), (87.03,), 0.002),
    ("llama3.1-405b", 4, 32768, Plan(cp=8, cp_a2a=8), (139.22,), 0.002),
    ("llama3.1-405b", 4, 131072, Plan(tp=2, cp=4, cp_a2a=4), (118.13,), 0.002),
]


@pytest.mark.parametrize(("name", "num_layers", "sequence", "plan", "measured", "tolerance"), MEASURED)
def test_allocator_peaks_of_measured_runs(
    name: str, num_layers: int, sequence: int, plan: Plan, measured: tuple[float, ...], tolerance: float
) -> None:
    heads = {"num_kv_heads": 16} if name == "llama3.1-405b" else {}
    job = TrainingJob(model=truncated(name, num_layers, **heads), global_batch=8 * plan.dp, sequence_length=sequence)
    plan = replace(plan, zero_stage=1, sequence_parallel=plan.tp > 1)
    found = [stage.allocated_bytes / GIB for stage in stage_memory(plan, job, STACK)]
    assert found == pytest.approx(measured, rel=tolerance)


def test_device_memory_of_bloom() -> None:
    """BLOOM's final split on 384 A100: 59 GB on the device (bigscience@9e64edec2a chronicles)."""
    shape = model("bloom-176b")
    job = TrainingJob(model=shape, global_batch=2048, sequence_length=2048)
    plan = Plan(dp=8, tp=4, pp=12, micro_batch=2, recompute=Recompute.FULL, zero_stage=1)
    peak = memory(plan, job, software("megatron-deepspeed-bf16-2022")).peak_bytes
    assert peak / GIGA == pytest.approx(59.0, rel=0.10)


LLAMA = TrainingJob(model=model("llama3-8b"), global_batch=256, sequence_length=4096)
SPARSE = TrainingJob(model=model("deepseek-v3"), global_batch=512, sequence_length=2048)

plans = st.builds(
    Plan,
    dp=st.sampled_from([1, 2, 8]), tp=st.sampled_from([1, 2, 8]), pp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]), ep=st.just(1), vp=st.just(1), micro_batch=st.sampled_from([1, 2]),
    schedule=st.sampled_from(["gpipe", "1f1b"]), recompute=st.sampled_from(list(Recompute)),
    sequence_parallel=st.booleans(), zero_stage=st.sampled_from([0, 1]),
)  # fmt: skip


@given(plan=plans)
def test_laws(plan: Plan) -> None:
    def peak(**changes: object) -> float:
        return float(memory(replace(plan, **changes), LLAMA, STACK).allocated_bytes)  # type: ignore[arg-type]

    found = memory(plan, LLAMA, STACK)
    assert sum(found.parts().values()) == pytest.approx(found.peak_bytes, rel=1e-12)
    assert all(part >= 0.0 for part in found.parts().values())
    assert found.allocated_bytes <= found.reserved_bytes <= found.device_bytes
    assert peak(tp=2 * plan.tp) <= peak()
    assert peak(zero_stage=1) <= peak(zero_stage=0)
    assert (peak(zero_stage=1) < peak(zero_stage=0)) == (plan.dp * plan.cp > 1)
    assert peak(recompute=Recompute.NONE) >= peak(recompute=Recompute.FULL)
    assert peak(micro_batch=2 * plan.micro_batch, schedule="1f1b") >= peak(schedule="1f1b")
    assert peak(schedule="gpipe") >= peak(schedule="1f1b")


@pytest.mark.parametrize("job", [LLAMA, SPARSE], ids=["dense", "sparse"])
def test_a_grid_gives_what_its_plans_give(job: TrainingJob) -> None:
    grid = PlanGrid.product(dp=(2, 8), tp=(1, 4), pp=(1, 4, 8), ep=(1, 2), vp=(1, 2), micro_batch=(1, 2),
                            schedule=("1f1b", "interleaved"), recompute=tuple(Recompute),
                            zero_stage=(0, 1))  # fmt: skip
    at_once = memory(grid, job, STACK).parts()
    rows = np.random.default_rng(0).choice(len(grid), 40, replace=False)
    for row in rows:
        alone = memory(grid.plan(int(row)), job, STACK).parts()
        for name, value in alone.items():
            assert np.broadcast_to(at_once[name], len(grid))[row] == pytest.approx(value, rel=1e-12, abs=1e-6)


def test_the_fullest_rank_need_not_be_the_first() -> None:
    """DeepSeek-V3's dense layers come first and its experts after: a later stage holds more."""
    plan = Plan(dp=64, pp=61, ep=64, zero_stage=1)
    found = memory(plan, SPARSE, STACK)
    expert_layer = 11.3e9  # parameters of one sparse layer, from its shape
    assert found.weights_bytes > 2.0 * expert_layer / 64


def test_interleaving_holds_more_and_pipelines_hold_what_the_paper_says() -> None:
    """Interleaving holds 1 + (p - 1) / (p v) times the layers of 1F1B's first stage [arXiv:2205.05198, 4.2.3]."""
    job = TrainingJob(model=model("gpt3-175B"), global_batch=512, sequence_length=2048)
    plain = memory(Plan(tp=8, pp=8, dp=1), job, STACK).activations_bytes
    chunked = memory(Plan(tp=8, pp=8, dp=1, vp=3, schedule="interleaved"), job, STACK).activations_bytes
    assert chunked / plain == pytest.approx(1.0 + 7.0 / (8.0 * 3.0), rel=1e-9)


@pytest.mark.parametrize(
    ("precision", "optimizer", "stack", "expected"),
    [
        ("bf16", "adam", "megatron-lm-2022", (2, 4, 12)),
        ("fp16", "adam", "megatron-deepspeed-2022", (2, 2, 16)),
        ("bf16", "adam", "megatron-deepspeed-bf16-2022", (2, 6, 12)),
        ("fp32", "adam", "pytorch-eager", (4, 4, 8)),
        ("fp32", "sgd", "pytorch-eager", (4, 4, 4)),
        ("bf16", "adam", "torchtitan", (4, 4, 8)),
    ],
)
def test_state_bytes(precision: str, optimizer: str, stack: str, expected: tuple[int, int, int]) -> None:
    job = LLAMA.model_copy(update={"precision": precision, "optimizer": optimizer})
    assert StateBytes.of(job, software(stack)) == StateBytes(*expected)


def test_moments_in_fewer_bits_are_smaller() -> None:
    """DeepSeek-V3's bf16 moments take 8 bytes of optimizer states a parameter with the master, 8-bit ones 6."""
    for moments, expected in (("fp32", 12.0), ("bf16", 8.0), ("int8", 6.0)):
        assert StateBytes.of(LLAMA, with_precisions(STACK, None, moments)).optimizer == expected
    narrow = with_precisions(STACK, "bf16", "bf16")
    plan = Plan(dp=8, zero_stage=1)
    assert memory(plan, LLAMA, narrow).gradients_bytes == memory(plan, LLAMA, STACK).gradients_bytes / 2


def test_layer_lists_have_no_logits() -> None:
    net = TrainingJob(model=model("resnet-50"), global_batch=256, sequence_length=1, precision="fp32")
    found = memory(Plan(micro_batch=256), net, software("pytorch-eager"))
    assert found.logits_bytes == 0.0
    assert found.weights_bytes == pytest.approx(4 * 25.557e6, rel=0.01)
    assert memory(Plan(micro_batch=128), net, software("pytorch-eager")).activations_bytes == pytest.approx(
        found.activations_bytes / 2
    )


def test_an_empty_grid_has_no_memory() -> None:
    assert isinstance(memory(PlanGrid.of([]), LLAMA, STACK), MemoryBreakdown)


@given(plan=plans, vp=st.sampled_from([1, 2]), ep=st.sampled_from([1, 4]))
def test_the_inventory_of_a_stage_adds_up_and_the_fullest_stage_is_the_plans(plan: Plan, vp: int, ep: int) -> None:
    if vp > 1 and plan.pp > 1:
        plan = replace(plan, vp=vp, schedule="interleaved")
    for job, one in ((LLAMA, plan), (SPARSE, replace(plan, ep=ep))):
        stages = stage_memory(one, job, STACK)
        assert len(stages) == one.pp
        fullest = max(stages, key=lambda stage: stage.allocated_bytes)
        assert memory(one, job, STACK).allocated_bytes == pytest.approx(fullest.allocated_bytes, rel=1e-12)
        for rank in {0, one.pp - 1}:
            items = inventory(one, job, STACK, rank)
            for part, num_bytes in stages[rank].parts().items():
                listed = sum(item.num_bytes for item in items if item.part == part)
                assert listed == pytest.approx(num_bytes, rel=1e-9, abs=1.0), part


def test_the_inventory_says_what_keeps_a_tensor() -> None:
    items = inventory(Plan(dp=8, zero_stage=1), LLAMA, STACK, 0)
    kept = {item.name: item.kept_by for item in items if item.layer == "dense"}
    assert kept["layer input"] == "every policy"
    assert kept["softmax statistics"] == "none, selective without core_attn, operators"
    assert kept["keys"] == "none, selective"


def test_a_plan_between_the_usual_and_the_worst_fragmentation_is_risky() -> None:
    cluster = cluster_of("dgx-h100")
    found = memory(Plan(dp=8, zero_stage=1), LLAMA, STACK)
    usable = usable_bytes(cluster, STACK)
    scales = {Fit.FITS: 0.9 * usable / upper_bytes(found, STACK), Fit.RISKY: 0.999 * usable / found.device_bytes,
              Fit.TOO_BIG: 1.001 * usable / found.device_bytes}  # fmt: skip
    for verdict, scale in scales.items():
        scaled = MemoryBreakdown(**{f"{name}_bytes": scale * value for name, value in found.parts().items()})
        assert fit_of(scaled, cluster, STACK) is verdict


def test_fully_sharded_states_are_sixteen_bytes_over_the_shards() -> None:
    """14.96 GiB for 8B parameters on 8 ranks, as FSDP2 holds them (fp32 parameters, gradients and two moments)."""
    job = TrainingJob(model=model("llama3.1-8b"), global_batch=16, sequence_length=8192)
    found = memory(Plan(dp=8, micro_batch=2, zero_stage=3), job, software("torchtitan"))
    states = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert states / GIB == pytest.approx(14.96, rel=1e-3)


FSDP = [
    # Sequence, plan, GiB reserved on the fullest of all ranks: pytorch/torchtitan@b5bcd76c66
    # benchmarks/llama3_h100_202412_torchtitan.md, table 2 (8B, full activation checkpointing, float8, compiled).
    (32768, Plan(dp=8), 83.9),
    (65536, Plan(dp=4, cp=2), 84.2),
    (131072, Plan(dp=2, cp=4), 84.0),
    (262144, Plan(cp=8), 84.5),
]
OPERATOR_RUNS = [
    # Stack, plan, GiB; tables 1 and 3 of the same page (8B, 8,192 tokens, microbatch 2, selective op).
    ("torchtitan-eager", Plan(dp=8), 82.4),
    ("torchtitan", Plan(dp=8), 77.0),
    ("torchtitan-eager", Plan(dp=128), 67.0),
    ("torchtitan", Plan(dp=128), 62.0),
]


@pytest.mark.parametrize(("name", "plan", "measured"), OPERATOR_RUNS)
def test_reserved_memory_of_runs_that_recompute_by_operators(name: str, plan: Plan, measured: float) -> None:
    job = TrainingJob(model=model("llama3.1-8b"), global_batch=2 * plan.dp, sequence_length=8192)
    plan = replace(plan, micro_batch=2, zero_stage=3, recompute=Recompute.OPERATORS)
    assert memory(plan, job, software(name)).reserved_bytes / GIB == pytest.approx(measured, rel=0.04)


def test_reserved_memory_of_sharded_tensor_parallel_runs() -> None:
    """70B on 256 devices, tp 8, microbatch 16: 71.9 GiB, 67.6 with asynchronous tensor parallelism (table 4)."""
    job = TrainingJob(model=model("llama3.1-70b"), global_batch=512, sequence_length=8192, precision="fp8")
    plan = Plan(dp=32, tp=8, micro_batch=16, zero_stage=3, sequence_parallel=True, recompute=Recompute.FULL)
    found = memory(plan, job, software("torchtitan")).reserved_bytes / GIB
    assert 0.94 * 71.9 < found < 1.04 * 67.6


@pytest.mark.parametrize(("sequence", "plan", "measured"), FSDP)
def test_reserved_memory_of_fully_sharded_runs(sequence: int, plan: Plan, measured: float) -> None:
    shape = model("llama3.1-8b").model_copy(update={"max_sequence_length": sequence})
    job = TrainingJob(model=shape, global_batch=plan.dp, sequence_length=sequence, precision="fp8")
    found = memory(replace(plan, zero_stage=3, recompute=Recompute.FULL), job, software("torchtitan"))
    assert found.reserved_bytes / GIB == pytest.approx(measured, rel=0.04)


sharded = st.builds(
    Plan, dp=st.sampled_from([8, 16]), tp=st.sampled_from([1, 2]), cp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2]), micro_batch=st.sampled_from([1, 2]), recompute=st.sampled_from(list(Recompute)),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
)  # fmt: skip


@given(plan=sharded, name=st.sampled_from(["megatron-core", "torchtitan"]))
def test_laws_of_sharding(plan: Plan, name: str) -> None:
    """States shrink with every stage; replica groups and gathered parameters that stay cost memory."""
    stack = software(name)

    def found(**changes: object) -> MemoryBreakdown:
        return memory(replace(plan, **changes), LLAMA, stack)  # type: ignore[arg-type]

    def states(one: MemoryBreakdown) -> float:
        return float(one.weights_bytes + one.gradients_bytes + one.optimizer_bytes)

    stages = [states(found(zero_stage=stage)) for stage in range(4)]
    assert stages == sorted(stages, reverse=True)
    assert stages[3] < stages[0]
    assert found().gathered_bytes > 0.0 if plan.zero_stage == 3 else found().gathered_bytes == 0.0
    assert found(zero_stage=3).allocated_bytes <= found(zero_stage=3, reshard_after_forward=False).allocated_bytes
    assert found(zero_stage=3).allocated_bytes <= found(zero_stage=3, dp_replicate=2).allocated_bytes
    items = inventory(plan, LLAMA, stack, 0)
    for part, num_bytes in stage_memory(plan, LLAMA, stack)[0].parts().items():
        assert sum(item.num_bytes for item in items if item.part == part) == pytest.approx(num_bytes, rel=1e-9), part


@given(plan=sharded, schedule=st.sampled_from(["gpipe", "1f1b"]))
def test_gradients_that_come_with_the_first_backward_pass_never_add_memory(plan: Plan, schedule: str) -> None:
    """They save most where all activations wait before any gradient exists, and nothing once they lie in buffers."""
    lazy = software("torchtitan").model_copy(update={"frees_gradients": True})
    plan = replace(plan, schedule=schedule)
    freed, kept = memory(plan, LLAMA, lazy), memory(plan, LLAMA, software("torchtitan"))
    assert freed.allocated_bytes <= kept.allocated_bytes * (1.0 + 1e-12)
    if plan.zero_stage < 3 and plan.dp * plan.cp > 1:
        assert freed.allocated_bytes == pytest.approx(kept.allocated_bytes, rel=1e-12)
    for stage, found in enumerate(stage_memory(plan, LLAMA, lazy)):
        for part, num_bytes in found.parts().items():
            items = [item.num_bytes for item in inventory(plan, LLAMA, lazy, stage) if item.part == part]
            assert sum(items) == pytest.approx(num_bytes, rel=1e-9, abs=1.0), part


def test_one_microbatch_peaks_before_any_gradient_exists() -> None:
    """A single rank that trains its batch at once: no gradient beside the loss, which is larger than they are."""
    job = TrainingJob(model=model("gpt-20m"), global_batch=64, sequence_length=128, precision="fp32")
    stack = software("pytorch-eager-cpu")
    assert memory(Plan(micro_batch=64), job, stack).gradients_bytes == 0.0
    assert memory(Plan(micro_batch=8), job, stack).gradients_bytes > 0.0


FIGURES = [
    # Model, plan, batch; GiB of states and of activations (figure 1), and percent of the activations of tensor
    # parallelism alone with sequence parallelism, selective recomputation, both, and full (figure 7).
    # Korthikanti et al. 2022, arXiv:2205.05198; analytic figures of the first stage, embeddings left out.
    ("megatron-22B", Plan(tp=8, micro_batch=4), 4, 45.5625, 59.25, (66.84, 49.42, 16.18, 7.64)),
    ("gpt3-175B", Plan(tp=8, pp=8, vp=3, schedule="interleaved"), 64, 45.5625, 66.84375, (62.04, 56.53, 18.49, 8.71)),
    ("turing-530B", Plan(tp=8, pp=35, vp=3, schedule="interleaved"), 280, 31.640625, 114.0234375,
     (58.31, 62.04, 20.27, 9.42)),
    ("megatron-1T", Plan(tp=8, pp=64), 512, 32.958984375, 131.25, (58.31, 62.04, 20.27, 9.42)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plan", "batch", "states", "activations", "percent"), FIGURES)
def test_figures_of_the_sequence_parallelism_paper(
    name: str, plan: Plan, batch: int, states: float, activations: float, percent: tuple[float, ...]
) -> None:
    job = TrainingJob(model=model(name), global_batch=batch, sequence_length=2048, precision="fp16")

    def layers(parts: set[str], **changes: object) -> float:
        items = inventory(replace(plan, **changes), job, software("megatron-lm-2022"), 0)  # type: ignore[arg-type]
        return sum(item.num_bytes for item in items if item.layer == "dense" and item.part in parts) / GIB

    assert layers({"weights", "gradients", "optimizer"}) == pytest.approx(states, rel=0.02)
    whole = layers({"activations"})
    assert whole == pytest.approx(activations, rel=0.02)
    saved = (
        {"sequence_parallel": True},
        {"recompute": Recompute.SELECTIVE},
        {"recompute": Recompute.SELECTIVE, "sequence_parallel": True},
        {"recompute": Recompute.FULL},
    )
    for changes, expected in zip(saved, percent, strict=True):
        assert 100.0 * layers({"activations"}, **changes) / whole == pytest.approx(expected, rel=0.02)
