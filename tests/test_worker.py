"""Every split that is really run trains exactly as one rank does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.plan import Plan, Recompute
from planner.recompute import Module
from planner.work.layers import layer_parameters, sequence
from profiles.model import LayerList, ListedLayer, TransformerShape
from profiles.workload import TrainingJob
from tests.features import GPT, LLAMA, MIXTURE, TIED, TOLERANCE, job, losses, reference, run
from validate.launch import LaunchError, launch_local, run_rank
from validate.runnable import RunSpec, check_runnable

pytest.importorskip("torch")

DP, PP = Plan(dp=2, micro_batch=2), Plan(pp=2, micro_batch=2)
INTERLEAVED = Plan(pp=2, vp=2, micro_batch=2, schedule="interleaved")


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


@pytest.mark.parametrize("plan", [DP, PP, Plan(dp=2, tp=2, micro_batch=2)], ids=str)
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
            sums_of_loss, sums_of_embedding, sums_of_head = 3, 1, 1
            sums = 4 * GPT.num_layers + sums_of_loss + sums_of_embedding + sums_of_head
            assert names.count("tp") == (microbatches * sums if plan.tp > 1 else 0)
            assert all(0.0 <= start <= end <= step["usage"]["wall_seconds"] * 1.01 for _, start, end in step["spans"])


@pytest.mark.parametrize("plan", [Plan(), Plan(tp=2), PP, INTERLEAVED], ids=str)
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
        (Plan(cp=3), {}, "sequence_length: 16 tokens do not divide"),
        (Plan(cp=8, cp_a2a=8), {}, "cp_a2a: 8 does not divide num_heads"),
        (Plan(dp=2, ep=2), {}, "ep: gpt has no experts"),
        (Plan(dp=8, ep=8), {"model": MIXTURE}, "ep: 8 does not divide the 4 experts"),
        (Plan(tp=2), {"model": MIXTURE}, "tp: validate runs a mixture of experts under dp, cp, ep and pp only"),
        (Plan(etp=2, tp=2), {"model": MIXTURE}, "etp: validate runs whole experts"),
        (Plan(), {"model": MIXTURE, "expert_load_factor": 1.5}, "expert_load_factor"),
        (
            Plan(recompute=Recompute.SELECTIVE, recompute_modules=Module.LAYERNORM),
            {},
            "cannot drop the mere output of layernorm",
        ),
        (Plan(tp=2, recompute=Recompute.OPERATORS), {}, "recompute: by operators torch would repeat"),
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
from tests.features import job
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
    spec = RunSpec(job(LLAMA), Plan(tp=2, recompute=Recompute.FULL, layout=(1, 3), sequence_parallel=True), num_steps=5)
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
