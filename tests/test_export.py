"""Every target writes only names that its framework accepts, says every degree of the plan, or refuses in a sentence.

The accepted names are lists in tests/data/export, read from the frameworks' own parsers at the commits stated there.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwise.export.registry import CannotExpress, Exported, load
from meshwise.jobfile import JobTable, Question, question
from planner.placement import parsed
from planner.plan import PLAN_FIELDS, Plan, Recompute
from tests.cli import faults, meshwise
from tests.scenes import sample

TARGETS = load()
ACCEPTED = Path(__file__).parent / "data" / "export"
MODELS = ("llama3-8b", "deepseek-v2-lite", "gpt3-6.7B", "mixtral-8x7b", "bert-large", "resnet-50", "qwen3-8b")


def asked(model: str, **fields: Any) -> Question:
    devices = 16
    return question(JobTable(model=model, cluster="dgx-h100", devices=devices, global_batch=64, **fields))


def some_plans(on: Question, count: int = 300) -> list[Plan]:
    """A sample of the legal plans, and those without a pipeline under FSDP too."""
    plans = list(sample(on.job, on.cluster, count))
    sharded = [replace(plan, zero_stage=3) for plan in plans if plan.pp == 1 and plan.dp > 1]
    return plans + sharded


def attempt(name: str, plan: Plan, on: Question) -> Exported | str:
    """What was written, or the sentence that refused."""
    try:
        return TARGETS[name].export(plan, on)
    except CannotExpress as refused:
        return str(refused)


def names_in(name: str, text: str) -> list[str]:
    """The settings that a text makes, as the lists write them."""
    if name == "megatron":
        return re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE)
    return list(_keys(json.loads(text) if name == "deepspeed" else tomllib.loads(text), ""))


def _keys(values: dict[str, Any], above: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{key}.")
        else:
            yield above + key


def accepted(name: str) -> set[str]:
    lines = (ACCEPTED / f"{name}.txt").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TARGETS)
def test_plans_are_written_in_accepted_names_or_refused_in_a_sentence(name: str, model: str) -> None:
    on, known = asked(model), accepted(name)
    for plan in some_plans(on):
        found = attempt(name, plan, on)
        if isinstance(found, str):
            assert found.startswith(f"{name} ")
            assert "\n" not in found
        else:
            assert set(names_in(name, found.text)) <= known
            assert found.notes


WRITTEN = {
    "megatron": (
        Plan(dp=2, tp=2, pp=4, vp=2, schedule="interleaved", sequence_parallel=True, zero_stage=1, micro_batch=2),
        Plan(dp=4, cp=4, cp_a2a=2, zero_stage=1, recompute=Recompute.SELECTIVE),
        Plan(dp=16, zero_stage=3, dp_replicate=2, recompute=Recompute.FULL, recompute_layers=3),
    ),
    "torchtitan": (
        Plan(dp=2, tp=2, pp=4, vp=2, schedule="zb-v", sequence_parallel=True, zero_stage=3, micro_batch=2),
        Plan(dp=8, cp=2, zero_stage=3, dp_replicate=2, recompute=Recompute.OPERATORS),
        Plan(dp=16, recompute=Recompute.FULL),
    ),
    "deepspeed": (
        Plan(dp=16, zero_stage=3, dp_replicate=2, recompute=Recompute.FULL),
        Plan(dp=8, tp=2, zero_stage=2, micro_batch=4),
        Plan(dp=4, cp=4, cp_a2a=4, zero_stage=1),
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_framework_can_run_is_written(name: str) -> None:
    """A target that refuses everything would pass the contract above."""
    for plan in WRITTEN[name]:
        assert isinstance(attempt(name, plan, asked("llama3-8b")), Exported), plan
    experts = Plan(dp=8, tp=2, ep=8, sequence_parallel=name != "deepspeed", zero_stage=2 if name == "deepspeed" else 3)
    assert isinstance(attempt(name, experts, asked("deepseek-v2-lite")), Exported)


@pytest.mark.parametrize("name", TARGETS)
def test_replicas_and_stages_on_unlike_nodes_are_refused(name: str) -> None:
    plan = Plan(dp=16, zero_stage=1, placement=parsed("8 of h100 @5; 8 of a100 @3"))
    assert "placement=8 of h100*1 @5; 8 of a100*1 @3" in str(attempt(name, plan, asked("llama3-8b")))


def test_megatron_numbers_ranks_in_its_two_orders() -> None:
    plan = Plan(dp=2, tp=4, pp=2, order="tp-cp-pp-dp")
    written = attempt("megatron", plan, asked("llama3-8b"))
    assert isinstance(written, Exported)
    assert "--use-tp-pp-dp-mapping" in written.text
    assert "tp-cp-pp-dp" in str(attempt("megatron", replace(plan, order="pp-tp-cp-dp"), asked("llama3-8b")))
    assert "order=tp-cp-pp-dp" in str(attempt("torchtitan", plan, asked("llama3-8b")))


def test_megatron_is_told_the_size_of_buckets() -> None:
    plan, on = Plan(dp=16, zero_stage=1), asked("llama3-8b", bucket_mib=100)
    written = attempt("megatron", plan, on)
    assert isinstance(written, Exported)
    assert f"--ddp-bucket-size {100 * 2**20 // 4}" in written.text
    assert "bucket_mib" in str(attempt("megatron", replace(plan, zero_stage=3), on))
    assert "bucket" in str(attempt("deepspeed", plan, on))


MESH = Plan(dp=4, tp=2, cp=2, ep=2, sequence_parallel=True, zero_stage=3)
BASES = {
    "vp": Plan(dp=4, pp=4, zero_stage=1), "etp": MESH, "cp_a2a": MESH, "cp_gather": MESH,
    "sequence_parallel": Plan(dp=8, tp=2, zero_stage=1),
    "recompute_modules": Plan(dp=16, zero_stage=3, recompute=Recompute.SELECTIVE),
    "recompute_layers": Plan(dp=16, zero_stage=3, recompute=Recompute.FULL),
    ("torchtitan", "vp"): Plan(dp=4, pp=4, zero_stage=3),
    ("deepspeed", "vp"): Plan(dp=16),
    ("deepspeed", "etp"): Plan(dp=8, tp=2, ep=2, zero_stage=1),
    ("deepspeed", "cp_a2a"): Plan(dp=8, cp=2, cp_a2a=2, zero_stage=3),
    ("deepspeed", "cp_gather"): Plan(dp=8, cp=2, cp_a2a=2, zero_stage=3),
}  # fmt: skip
"""Plans in which a field means something, by target and field or by field."""
NUMBERS = [name for name in PLAN_FIELDS if name not in ("dp", "schedule", "recompute", "layout", "order", "placement")]
"""Fields that can be changed by a number; dp is what Megatron-LM takes the processes' number to leave."""


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("name", TARGETS)
def test_no_field_of_a_plan_is_dropped_in_silence(name: str, field: str) -> None:
    """Changing one field changes what is written, or is refused. ep shows in mixtures of experts only."""
    on = asked("deepseek-v2-lite" if field in ("ep", "etp") else "llama3-8b")
    base = BASES.get((name, field)) or BASES.get(field) or Plan(dp=16, zero_stage=3)
    value = getattr(base, field)
    other = replace(base, **{field: (not value) if isinstance(value, bool) else type(value)(1 if value == 2 else 2)})
    assert _settings(attempt(name, base, on)) != _settings(attempt(name, other, on))


def test_uneven_stages_are_written_or_refused() -> None:
    on, plan = asked("llama3-8b"), Plan(dp=4, pp=4, zero_stage=1, layout=(9, 8, 8, 7))
    written = attempt("megatron", plan, on)
    assert isinstance(written, Exported)
    assert "--pipeline-model-parallel-layout 'Et*9|(t*8|)*2t*7L'" in written.text
    assert all(isinstance(attempt(name, plan, on), str) for name in ("torchtitan", "deepspeed"))


def _settings(found: Exported | str) -> str:
    """A refusal, or what was written without its comments."""
    if isinstance(found, str):
        return found
    return "\n".join(line for line in found.text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("recompute", Recompute)
@pytest.mark.parametrize("name", TARGETS)
def test_every_recomputation_is_said_or_refused(name: str, recompute: Recompute) -> None:
    on, base = asked("llama3-8b"), Plan(dp=16, zero_stage=3)
    found, plain = attempt(name, replace(base, recompute=recompute), on), attempt(name, base, on)
    assert isinstance(found, Exported) or recompute not in (Recompute.NONE, Recompute.FULL)
    assert (_settings(found) == _settings(plain)) == (recompute is Recompute.NONE)


def test_megatron_is_told_the_whole_split() -> None:
    on = asked("deepseek-v3", sequence_length=4096)
    plan = Plan(dp=2, tp=2, pp=4, ep=4, sequence_parallel=True, zero_stage=1, micro_batch=2)
    with pytest.raises(CannotExpress, match="divides neither 61 nor 63"):
        TARGETS["megatron"].export(plan, on)
    text = TARGETS["megatron"].export(replace(plan, pp=1, dp=8), on).text
    given = dict(shlex.split(line.strip() + " yes")[:2] for line in text.splitlines() if line.startswith("  --"))
    assert given["--tensor-model-parallel-size"] == "2"
    assert given["--expert-model-parallel-size"] == "4"
    assert given["--expert-tensor-parallel-size"] == "1"
    assert given["--moe-layer-freq"] == "([0]*3+[1]*58)"
    assert given["--kv-lora-rank"] == "512"
    assert given["--mtp-num-layers"] == "1"
    assert given["--moe-router-num-groups"] == "8"
    assert given["--use-distributed-optimizer"] == "yes"
    assert given["--sequence-parallel"] == "yes"


def test_megatron_writes_modules_for_further_tokens_into_the_layout() -> None:
    on = asked("deepseek-v3", sequence_length=4096, software="megatron-core-deepep")
    plan = Plan(dp=4, pp=4, ep=4, zero_stage=1, layout=(16, 16, 16, 13))
    text = TARGETS["megatron"].export(plan, on).text
    assert "'Et*16|(t*16|)*2t*13mL'" in text
    assert "--moe-flex-dispatcher-backend deepep" in text
    assert "mtp_modules=0" in str(attempt("torchtitan", Plan(dp=16, zero_stage=3), on))


def test_torchtitan_microbatches_make_the_batch() -> None:
    on = asked("llama3-8b")
    plan = Plan(dp=2, tp=2, pp=4, sequence_parallel=True, zero_stage=3, micro_batch=2)
    found = tomllib.loads(TARGETS["torchtitan"].export(plan, on).text)
    assert found["training"]["local_batch_size"] * plan.dp == found["training"]["global_batch_size"] == 64
    assert found["parallelism"]["pipeline_parallel_microbatch_size"] == 2
    assert found["parallelism"]["pipeline_parallel_layers_per_stage"] * plan.pp == 32


def test_deepspeed_batches_multiply() -> None:
    on = asked("llama3-8b")
    plan = Plan(dp=8, tp=2, micro_batch=2, zero_stage=2)
    found = json.loads(TARGETS["deepspeed"].export(plan, on).text)
    product = found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"] * plan.dp
    assert found["train_batch_size"] == product == 64
    assert found["zero_optimization"]["stage"] == 2


def test_the_command_writes_a_file_and_says_what_is_left(tmp_path: Path) -> None:
    job = ("--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "8", "--zero-stage", "3")
    path = tmp_path / "run.toml"
    said = meshwise("export", *job, "--to", "torchtitan", "--output", path)
    assert said.code == 0, said.err
    assert "left to you" in said.err
    assert tomllib.loads(path.read_text())["parallelism"]["data_parallel_shard_degree"] == 8
    assert faults(meshwise("export", *job, "--to", "torchtitan", "--output", path)) == []
    assert faults(meshwise("export", *job, "--to", "nemo")) == []
    assert faults(meshwise("export", *job, "--to", "deepspeed", "--pp", "2", "--zero-stage", "1")) == []
    assert json.loads(meshwise("export", *job, "--to", "deepspeed", "--json").out)["target"] == "deepspeed"


@pytest.mark.parametrize("name", TARGETS)
def test_precisions_that_are_not_written_are_refused(name: str) -> None:
    on = asked("llama3-8b")
    narrow = replace(on, table=on.table.model_copy(update={"moment_precision": "bf16"}))
    assert "moment_precision=bf16" in str(attempt(name, Plan(dp=16, zero_stage=3), narrow))
