"""Every split that is really run trains exactly as one rank does."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.plan import Plan, Recompute
from planner.work.layers import layer_parameters, sequence
from profiles.model import LayerList, ListedLayer, TransformerShape
from profiles.workload import TrainingJob
from validate.launch import LaunchError, launch_local, run_rank
from validate.runnable import RunSpec, check_runnable

pytest.importorskip("torch")

GPT = TransformerShape(
    name="gpt", source="made up for tests", family="gpt", num_layers=4, hidden_size=32, num_heads=4, num_kv_heads=4,
    head_dim=8, ffn_size=64, vocabulary_size=64, max_sequence_length=16, num_learned_positions=16,
    norm="layer_norm", qkv_bias=True, linear_bias=True,
)  # fmt: skip
LLAMA = GPT.model_copy(
    update={
        "num_kv_heads": 2,
        "gated_ffn": True,
        "norm": "rms_norm",
        "num_learned_positions": 0,
        "qkv_bias": False,
        "linear_bias": False,
    }
)
TIED = LLAMA.model_copy(update={"tied_embeddings": True})
TOLERANCE = 2e-6
"""Relative difference of losses in fp32: sums are taken in another order, nothing else."""


def job(model: TransformerShape = GPT, **changes: Any) -> TrainingJob:
    return TrainingJob(model=model, global_batch=8, sequence_length=16, precision="fp32").model_copy(update=changes)


def run(plan: Plan, model: TransformerShape = GPT, **options: Any) -> list[dict[str, Any]]:
    options = {"num_warmup": 0, "num_steps": 3, "device": "cpu"} | options
    precision = options.pop("precision", "fp32")
    spec = RunSpec(job(model, precision=precision), plan, **options)
    values = json.loads(json.dumps(spec.to_json()))
    return launch_local(run_rank, values, plan.num_ranks, timeout_seconds=120, oversubscribe=True)


def losses(results: list[dict[str, Any]]) -> list[float]:
    (first, *others) = [result["losses"] for result in results if result["losses"] is not None]
    assert all(other == pytest.approx(first, rel=TOLERANCE) for other in others)
    return list(first)


@cache
def reference(model: TransformerShape) -> tuple[float, ...]:
    return tuple(losses(run(Plan(micro_batch=2), model)))


PLANS = {
    "dp2": Plan(dp=2, micro_batch=2),
    "dp2 one microbatch": Plan(dp=2, micro_batch=4),
    "dp2 zero1": Plan(dp=2, micro_batch=2, zero_stage=1),
    "dp2 zero2": Plan(dp=2, micro_batch=2, zero_stage=2),
    "dp2 fsdp": Plan(dp=2, micro_batch=2, zero_stage=3),
    "dp2 fsdp kept": Plan(dp=2, micro_batch=2, zero_stage=3, reshard_after_forward=False),
    "dp2 fsdp recompute": Plan(dp=2, micro_batch=2, zero_stage=3, recompute=Recompute.FULL),
    "dp4 hsdp": Plan(dp=4, micro_batch=2, zero_stage=3, dp_replicate=2),
    "dp4 zero1 in groups": Plan(dp=4, micro_batch=2, zero_stage=1, dp_replicate=2),
    "tp2": Plan(tp=2, micro_batch=2),
    "tp2 sp": Plan(tp=2, micro_batch=2, sequence_parallel=True),
    "tp2 recompute": Plan(tp=2, micro_batch=2, recompute=Recompute.FULL, recompute_layers=3),
    "pp2 1f1b": Plan(pp=2, micro_batch=2),
    "pp2 gpipe recompute": Plan(pp=2, micro_batch=2, schedule="gpipe", recompute=Recompute.FULL),
    "pp2 uneven": Plan(pp=2, micro_batch=2, layout=(3, 1)),
    "pp2 interleaved": Plan(pp=2, vp=2, micro_batch=2, schedule="interleaved"),
    "pp2 breadth-first": Plan(pp=2, vp=2, micro_batch=2, schedule="breadth-first"),
    "pp2 zb-h1": Plan(pp=2, micro_batch=2, schedule="zb-h1"),
    "pp2 zb-v": Plan(pp=2, vp=2, micro_batch=2, schedule="zb-v"),
    "pp2 dualpipe-v recompute": Plan(pp=2, vp=2, micro_batch=2, schedule="dualpipe-v", recompute=Recompute.FULL),
    "dp2 tp2": Plan(dp=2, tp=2, micro_batch=2),
    "dp2 tp2 sp zero2": Plan(dp=2, tp=2, micro_batch=2, sequence_parallel=True, zero_stage=2),
    "dp2 tp2 sp fsdp": Plan(dp=2, tp=2, micro_batch=2, sequence_parallel=True, zero_stage=3),
    "dp2 pp2": Plan(dp=2, pp=2, micro_batch=2),
    "dp2 pp2 zero1 zb-h1": Plan(dp=2, pp=2, micro_batch=2, zero_stage=1, schedule="zb-h1"),
    "dp2 pp2 fsdp kept": Plan(dp=2, pp=2, micro_batch=2, zero_stage=3, reshard_after_forward=False),
    "tp2 pp2 sp": Plan(tp=2, pp=2, micro_batch=2, sequence_parallel=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
def test_a_split_trains_as_one_rank_does(plan: Plan, model: TransformerShape) -> None:
    results = run(plan, model)
    assert losses(results) == pytest.approx(reference(model), rel=TOLERANCE)
    assert [result["rank"] for result in results] == list(range(plan.num_ranks))
    coordinates = [tuple(result["coordinates"].values()) for result in results]
    assert coordinates == list(itertools.product(*map(range, (plan.pp, plan.dp, plan.cp, plan.tp))))


def test_training_changes_the_loss() -> None:
    first, second, third = reference(GPT)
    assert len({first, second, third}) == 3
    assert abs(first - second) > 100 * TOLERANCE * first


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(dp=2, tp=2, pp=2),
        Plan(dp=4, micro_batch=1),
        Plan(pp=4, micro_batch=1, schedule="gpipe"),
        Plan(tp=2, pp=2, vp=2, schedule="interleaved"),
    ],
    ids=str,
)
def test_larger_products_train_as_one_rank_does(plan: Plan) -> None:
    assert losses(run(plan)) == pytest.approx(reference(GPT), rel=TOLERANCE)


def test_tied_embeddings_stay_tied_under_tensor_parallelism() -> None:
    assert losses(run(Plan(tp=2, micro_batch=2), TIED)) == pytest.approx(reference(TIED), rel=TOLERANCE)
    assert reference(TIED) != reference(LLAMA)


def test_bf16_stays_near_fp32() -> None:
    assert losses(run(Plan(dp=2, micro_batch=2), precision="bf16")) == pytest.approx(reference(GPT), rel=2e-2)


@pytest.mark.parametrize("plan", [PLANS["dp2"], PLANS["pp2 1f1b"], PLANS["dp2 tp2"]], ids=str)
def test_a_rank_reports_what_it_did(plan: Plan) -> None:
    results = run(plan, num_warmup=1, num_steps=2)
    for result in results:
        assert len(result["steps"]) == 2
        assert len(result["losses"] or [0] * 3) == 3
        for step in result["steps"]:
            names = [name for name, _, _ in step["spans"]]
            microbatches = plan.num_microbatches(8)
            assert names.count("forward") == names.count("backward") == microbatches
            assert names.count("optimizer") == 1
            assert names.count("dp") == (1 if plan.dp > 1 else 0)
            sums_of_loss, sums_of_embedding, sums_of_head = 2, 1, 1
            sums = 4 * GPT.num_layers + sums_of_loss + sums_of_embedding + sums_of_head
            assert names.count("tp") == (microbatches * sums if plan.tp > 1 else 0)
            assert all(0.0 <= start <= end <= step["usage"]["wall_seconds"] * 1.01 for _, start, end in step["spans"])


@pytest.mark.parametrize("plan", [Plan(), PLANS["tp2"], PLANS["pp2 1f1b"], PLANS["pp2 interleaved"]], ids=str)
@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
def test_ranks_hold_the_parameters_the_planner_counts(plan: Plan, model: TransformerShape) -> None:
    held = [result["num_parameters"] for result in run(plan, model, num_steps=1) if not result["coordinates"]["tp"]]
    planned = sum(sum(layer_parameters(model, kind, plan)) for kind in sequence(model))
    assert sum(held) == pytest.approx(planned, abs=1e-6)


def test_memory_is_measured_above_the_weights_and_gradients() -> None:
    wide = GPT.model_copy(update={"hidden_size": 256, "ffn_size": 2048})
    (result,) = run(Plan(), wide, measure_memory=True)
    states = 4 * 4 * result["num_parameters"]
    assert states < result["memory"]["allocated_bytes"] < 20 * states


@pytest.mark.parametrize(
    ("plan", "changes", "told"),
    [
        (Plan(cp=2), {}, "cp: validate runs dp, tp and pp"),
        (Plan(dp=2, ep=2), {}, "ep: validate runs"),
        (Plan(recompute=Recompute.SELECTIVE), {}, "recompute: validate runs none or full"),
        (Plan(dp=3), {}, "global_batch: 8 is not a multiple"),
        (Plan(tp=8), {}, "tp: 8 does not divide num_heads, which is 4"),
        (Plan(pp=8), {}, "pp: 8 stages need as many layers"),
        (Plan(pp=4, micro_batch=4), {}, "pp: 4 stages need at least 4 microbatches"),
        (Plan(pp=2, vp=2), {}, "schedule 1f1b: needs vp=1"),
        (Plan(pp=2, schedule="zb-h2"), {}, "schedule: torch.distributed.pipelining has .*, but no zb-h2"),
        (Plan(pp=2, layout=(4, 0)), {}, "layout: validate runs at least one layer a chunk"),
        (Plan(vp=2), {}, "vp: virtual stages need pp > 1"),
        (Plan(pp=2), {"model": TIED}, "tied_embeddings: validate ties them on one stage only"),
        (Plan(), {"precision": "fp8"}, "precision: validate runs fp32 or bf16"),
        (Plan(), {"sequence_length": 17}, "sequence_length: 17 exceeds the 16 learned"),
        (Plan(), {"model": GPT.model_copy(update={"qk_norm": True})}, "model: gpt has qk_norm"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_with_the_reason(plan: Plan, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_runnable(job(**changes), plan)


def test_a_list_of_layers_is_refused() -> None:
    layer = ListedLayer(
        name="conv", parameters=1, forward_flops=1, forward_bytes=1, saved_activation_bytes=1, output_bytes=1
    )
    model = LayerList(name="cnn", source="made up for tests", layers=(layer,))
    with pytest.raises(ValueError, match="model: cnn is a list of layers"):
        check_runnable(TrainingJob(model=model, global_batch=1, sequence_length=1), Plan())


def test_the_wrong_number_of_ranks_is_refused() -> None:
    spec = RunSpec(job(), Plan(dp=2, micro_batch=2), device="cpu")
    with pytest.raises(LaunchError, match="plan: it needs 2 ranks, but 1 were started"):
        launch_local(run_rank, spec.to_json(), 1, timeout_seconds=60)


def test_cuda_without_gpus_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    with pytest.raises(LaunchError, match="device: cuda needs a GPU for each of 1 local ranks, this host has 0"):
        run(Plan(), device="cuda")


TORCHRUN_SCRIPT = """
import json, os, sys
from planner.plan import Plan
from tests.test_worker import job
from validate.launch import launch, run_rank
from validate.runnable import RunSpec

if __name__ == "__main__":
    found = []
    for plan in (Plan(micro_batch=2), Plan(dp=2, micro_batch=2), Plan(pp=2, micro_batch=2)):
        values = RunSpec(job(), plan, num_warmup=0, num_steps=3, device="cpu").to_json()
        results = launch(run_rank, values, plan.num_ranks, timeout_seconds=60)
        found.append([result["losses"] for result in results if result["losses"]][0])
    if os.environ["RANK"] == "0":
        print("LOSSES", json.dumps(found))
"""


def test_ranks_started_by_torchrun_are_joined(tmp_path: Path) -> None:
    script = tmp_path / "joined.py"
    script.write_text(TORCHRUN_SCRIPT)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    for found in json.loads(line.removeprefix("LOSSES")):
        assert found == pytest.approx(reference(GPT), rel=TOLERANCE)


def test_a_spec_survives_json() -> None:
    spec = RunSpec(job(LLAMA), replace(PLANS["tp2 recompute"], sequence_parallel=True), num_steps=5)
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
