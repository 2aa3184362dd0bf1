"""Traced through torch's own code, FLOPs, bytes sent and bytes held are what the planner says, to the last one."""

import json
from dataclasses import replace
from typing import Any

import pytest
from cli import faults, meshwise

from planner.plan import Plan
from planner.recompute import Recompute
from profiles import catalog
from profiles.workload import TrainingJob
from validate.trace.agree import rows
from validate.trace.figures import Counts, Sent, Sizes, Traced
from validate.trace.planned import FLOPS, MEMORY, MESSAGES, planned
from validate.trace.possible import check_traceable
from validate.trace.report import TraceReport, trace_plan
from validate.trace.roles import MOST_LAYERS, reduced, roles

pytest.importorskip("torch")


def traced(model: str, plan: Plan, stack: str, **options: Any) -> TraceReport:
    job = TrainingJob(model=catalog.model(model), global_batch=4 * plan.dp * plan.pp, sequence_length=1024)
    return trace_plan(job, plan, catalog.software(stack), **options)


def differing(report: TraceReport) -> set[str]:
    """What is not simply equal."""
    return {" ".join(row.key).strip() for role in report.roles for row in role.rows if row.estimated != row.traced}


EQUAL_BUT_FOR: dict[str, tuple[str, Plan, str, set[str]]] = {
    "tensor parallel": (
        "llama3-8b", Plan(dp=8, tp=8, sequence_parallel=True), "pytorch-eager",
        {"messages tp all_reduce", "memory activations", "messages tp all_gather", "memory logits"},
    ),
    "sharded": ("llama3-8b", Plan(dp=64, zero_stage=3), "torchtitan", {"memory activations", "memory logits"}),
    "context parallel": (
        "llama3-8b", Plan(dp=4, cp=4, cp_gather=True, zero_stage=3), "torchtitan",
        {"memory activations", "memory logits"},
    ),
    "experts": (
        "mixtral-8x7b", Plan(dp=16, tp=4, ep=8, sequence_parallel=True), "torchtitan",
        {"memory activations", "memory logits", "memory optimizer", "memory parameters", "messages tp all_reduce"},
    ),
    "pipeline": (
        "gpt3-175B", Plan(dp=32, tp=8, pp=4, zero_stage=1, recompute=Recompute.FULL), "torchtitan",
        {"memory activations", "memory logits", "memory optimizer", "memory parameters", "messages tp all_reduce"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "plan", "stack", "allowed"), EQUAL_BUT_FOR.values(), ids=EQUAL_BUT_FOR)
def test_torch_does_what_the_planner_says(model: str, plan: Plan, stack: str, allowed: set[str]) -> None:
    report = traced(model, plan, stack)
    assert not report.num_faults
    assert differing(report) <= allowed
    assert sum(role.num_stages for role in report.roles) == plan.pp
    assert all(role.peak_bytes > 0.0 for role in report.roles)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "plan", "stack"),
    [
        ("llama3-8b", Plan(dp=32, tp=2, zero_stage=3, reshard_after_forward=False), "torchtitan"),
        ("llama3-8b", Plan(dp=32, tp=2, zero_stage=3, dp_replicate=4), "pytorch-eager"),
        ("gpt3-6.7B", Plan(dp=8, tp=4, pp=4, schedule="gpipe", zero_stage=1), "megatron-core"),
        ("gpt3-175B", Plan(dp=32, tp=8, pp=4, sequence_parallel=True), "megatron-core"),
        ("gpt3-6.7B", Plan(dp=8, tp=4, pp=2, vp=2, schedule="interleaved"), "megatron-core"),
        ("mixtral-8x7b", Plan(dp=8, ep=4, zero_stage=3), "torchtitan"),
        (
            "qwen3-30b-a3b",
            Plan(dp=16, tp=4, pp=2, ep=64, sequence_parallel=True, zero_stage=1, recompute=Recompute.FULL),
            "megatron-core",
        ),
        ("gpt2-xl", Plan(dp=256, zero_stage=3), "torchtitan"),
        ("llama3-8b", Plan(dp=8, pp=4, zero_stage=3), "torchtitan"),
        ("llama3-8b", Plan(dp=8, pp=4, vp=2, schedule="zb-v"), "torchtitan"),
        ("gpt3-6.7B", Plan(dp=4, pp=4, schedule="zb-h1"), "torchtitan"),
        ("llama3-8b", Plan(dp=4, tp=2, cp=8, cp_a2a=2, sequence_parallel=True, zero_stage=1), "torchtitan"),
    ],
    ids=str,
)
def test_every_difference_has_a_reason(model: str, plan: Plan, stack: str) -> None:
    assert not traced(model, plan, stack).num_faults


def test_parameters_in_fp32_that_tp_splits_are_updated_as_they_are() -> None:
    job = TrainingJob(model=catalog.model("gpt-20m"), global_batch=8, sequence_length=128, precision="fp32")
    report = trace_plan(job, Plan(dp=2, tp=2, micro_batch=2), catalog.software("pytorch-eager-cpu"))
    assert not report.num_faults


def test_the_traced_job_has_the_same_ranks_with_less_to_do() -> None:
    plan = Plan(dp=8, tp=8, pp=16, layout=(4, *[6] * 14, 8))
    job = TrainingJob(model=catalog.model("gpt3-175B"), global_batch=1536, sequence_length=2048)
    small, laid_out = reduced(job, plan, catalog.software("megatron-core"))
    assert laid_out == replace(plan, layout=(MOST_LAYERS,) * 16)
    assert small.model.num_layers == 16 * MOST_LAYERS
    assert laid_out.num_microbatches(small.global_batch) == 2 * plan.pp
    assert roles(small, laid_out) == {0: 1, 1: 14, 15: 1}


def test_a_figure_that_differs_without_a_reason_is_a_fault() -> None:
    stack = catalog.software("pytorch-eager").model_copy(update={"fused_elementwise": False, "regathers_inputs": False})
    job = TrainingJob(model=catalog.model("llama3-8b"), global_batch=8, sequence_length=1024)
    job = job.model_copy(update={"model": job.model.model_copy(update={"num_layers": 2})})
    plan = Plan(dp=8)
    right = planned(plan, job, stack, 0)
    counts = Counts(
        {key[1:]: value for key, value in right.items() if key[0] == FLOPS},
        {(*key[1:], "", 1): Sent(1, value) for key, value in right.items() if key[0] == MESSAGES},
    )
    held = {what: value for (section, what, _), value in right.items() if section == MEMORY}
    waiting = {("dense", "mm.default"): held["activations"], ("loss", "log_softmax"): held["logits"]}
    sizes = Sizes({"dp": 8})
    told = Traced(0, counts, held["parameters"], held["gradients"], held["optimizer"], waiting, sizes, 1.0)
    assert not [row for row in rows(told, job, plan, stack) if row.unexplained]
    counts.sent["dp", "all_reduce", "", 1].num_bytes += 2.0
    (fault,) = [row for row in rows(told, job, plan, stack) if row.unexplained]
    assert (fault.key, fault.unexplained) == ((MESSAGES, "dp", "all_reduce"), 2.0)


@pytest.mark.parametrize(
    ("model", "plan", "word"),
    [
        ("resnet-50", Plan(dp=8), "list of layers"),
        ("deepseek-v3", Plan(dp=8), "mla"),
        ("mixtral-8x7b", Plan(dp=8, tp=2, ep=2, etp=2), "etp=2"),
        ("qwen1.5-moe-a2.7b", Plan(dp=8), "num_extra_parameters"),
        ("qwen3-30b-a3b", Plan(dp=8, tp=4, cp=64, sequence_parallel=True), "experts"),
        ("llama3-8b", Plan(dp=8, tp=16), "num_kv_heads"),
        ("llama3-8b", Plan(dp=8, zero_stage=2), "zero_stage"),
        ("llama3-8b", Plan(dp=2, pp=4, schedule="zb-h2"), "schedule"),
        ("gpt2", Plan(dp=8), "learned positions"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(model: str, plan: Plan, word: str) -> None:
    job = TrainingJob(model=catalog.model(model), global_batch=64, sequence_length=2048)
    with pytest.raises(ValueError, match=word):
        check_traceable(job, plan)


def test_the_command_line_prints_and_dumps_a_trace() -> None:
    asked = ("validate", "--model", "gpt3-6.7B", "--cluster", "dgx-a100", "--devices", "64", "--tp", "8", "--trace")
    shown = meshwise(*asked, "--global-batch", "64")
    assert (shown.code, shown.err) == (0, "")
    assert "matrix products forward" in shown.out
    assert "differ for the reasons given" in shown.out
    found = json.loads(meshwise(*asked, "--global-batch", "64", "--json").out)
    assert found["num_faults"] == 0
    (role,) = found["roles"]
    sums = [row["estimated"] + sum(one["amount"] for one in row["reasons"]) for row in role["figures"]]
    assert sums == pytest.approx([row["traced"] for row in role["figures"]])
    assert not faults(meshwise(*asked, "--ep", "8"))
    assert not faults(meshwise("validate", "--model", "gpt3-6.7B", "--cluster", "dgx-a100", "--whole"))
