"""A job file of torchtitan (`--job.config_file`).

Names: pytorch/torchtitan, torchtitan/config/job_config.py, as of the release below (later development versions
replace job files by Python functions).
"""

import json
from typing import Any, NamedTuple

from meshwise.export.registry import Exported, refuse, target
from meshwise.jobfile import Question
from planner.plan import Plan, Recompute
from planner.work.layers import num_blocks
from profiles.model import ModelShape, TransformerShape

RELEASE = "v0.2.2 (73a0e69)"
NAME = "torchtitan"
_FIELDS = (
    "dp", "tp", "pp", "cp", "ep", "etp", "cp_gather", "vp", "micro_batch", "schedule", "recompute",
    "sequence_parallel", "zero_stage", "reshard_after_forward", "dp_replicate",
)  # fmt: skip
_SCHEDULES = {
    "gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "Interleaved1F1B", "breadth-first": "LoopedBFS",
    "zb-v": "ZBVZeroBubble", "dualpipe-v": "DualPipeV",
}  # fmt: skip
"""Ours -> a class name that torch.distributed.pipelining.schedules.get_schedule_class knows."""
_RECOMPUTE = {
    Recompute.NONE: {"mode": "none"}, Recompute.FULL: {"mode": "full"},
    Recompute.OPERATORS: {"mode": "selective", "selective_ac_option": "op"},
}  # fmt: skip
_PARAMETERS = {"bf16": "bfloat16", "fp8": "bfloat16", "mxfp8": "bfloat16", "fp32": "float32"}
_CONVERTERS = {"fp8": "quantize.linear.float8", "mxfp8": "quantize.linear.mx"}

Sections = dict[str, dict[str, Any]]


class Flavor(NamedTuple):
    """A model that torchtitan ships: its names there, and the shape it is known by."""

    name: str
    flavor: str
    num_layers: int
    hidden_size: int
    num_heads: int
    vocabulary_size: int


FLAVORS = (
    Flavor("llama3", "8B", 32, 4096, 32, 128256),
    Flavor("llama3", "70B", 80, 8192, 64, 128256),
    Flavor("llama3", "405B", 126, 16384, 128, 128256),
    Flavor("deepseek_v3", "16B", 27, 2048, 16, 102400),
    Flavor("deepseek_v3", "236B", 60, 5120, 128, 102400),
    Flavor("deepseek_v3", "671B", 61, 7168, 128, 129280),
    Flavor("qwen3", "0.6B", 28, 1024, 16, 151936),
    Flavor("qwen3", "1.7B", 28, 2048, 16, 151936),
    Flavor("qwen3", "4B", 36, 2560, 32, 151936),
    Flavor("qwen3", "8B", 36, 4096, 32, 151936),
    Flavor("qwen3", "14B", 40, 5120, 40, 151936),
    Flavor("qwen3", "32B", 64, 5120, 64, 151936),
    Flavor("qwen3", "30B-A3B", 48, 2048, 32, 151936),
    Flavor("qwen3", "235B-A22B", 94, 4096, 64, 151936),
)
"""Source: torchtitan/models/*/__init__.py of the release above."""


@target(NAME, release=RELEASE, ending=".toml", fields=_FIELDS)
def write(plan: Plan, question: Question) -> Exported:
    """The model's flavor, the batch and the split as a TOML file."""
    flavor = _flavor(question.job.model)
    sections: Sections = {
        "model": {"name": flavor.name, "flavor": flavor.flavor},
        "training": _training(plan, question),
        "parallelism": _parallelism(plan) | _sharding(plan) | _pipeline(plan, question.job.model),
        "activation_checkpoint": _checkpointing(plan),
        "compile": {"enable": question.stack.fused_elementwise},
    }
    if question.job.optimizer != "adam":
        refuse(NAME, f"has Adam and AdamW, not {question.job.optimizer}")
    if question.job.precision not in _PARAMETERS:
        refuse(NAME, f"trains in {', '.join(_PARAMETERS)}, not {question.job.precision}")
    if question.job.precision in _CONVERTERS:
        sections["model"]["converters"] = [_CONVERTERS[question.job.precision]]
    lines = [
        f"# {question.job.model.name} on {plan.num_ranks} devices: {plan}",
        f"# Job file of torchtitan {RELEASE}: ./run_train.sh --job.config_file FILE",
    ]
    for title, values in sections.items():
        lines += ["", f"[{title}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    notes = ["data, tokenizer (model.hf_assets_path), learning rate and number of steps are left to you"]
    return Exported("\n".join(lines) + "\n", tuple(notes))


def _flavor(model: ModelShape) -> Flavor:
    if isinstance(model, TransformerShape) and model.num_mtp_modules:
        refuse(NAME, f"trains no modules that predict further tokens, as those of {model.name}; set mtp_modules=0")
    found = [one for one in FLAVORS if isinstance(model, TransformerShape) and _is_shape(one, model)]
    if not found:
        names = ", ".join(f"{one.name} {one.flavor}" for one in FLAVORS)
        refuse(NAME, f"ships no model of the shape of {model.name}; it has {names}")
    return found[0]


def _is_shape(one: Flavor, model: TransformerShape) -> bool:
    shape = (model.num_layers, model.hidden_size, model.num_heads, model.vocabulary_size)
    return shape == (one.num_layers, one.hidden_size, one.num_heads, one.vocabulary_size)


def _training(plan: Plan, question: Question) -> dict[str, Any]:
    """A pipeline cuts its local batch, the whole of a step, into microbatches; without one, gradients accumulate."""
    job = question.job
    if job.precision not in _PARAMETERS:
        refuse(NAME, f"trains in {', '.join(_PARAMETERS)}, not {job.precision}")
    local = job.global_batch // plan.dp if plan.pp > 1 else plan.micro_batch
    return {
        "local_batch_size": local,
        "global_batch_size": job.global_batch,
        "seq_len": job.sequence_length,
        "mixed_precision_param": _PARAMETERS[job.precision],
    }


def _parallelism(plan: Plan) -> dict[str, Any]:
    if plan.tp > 1 and not plan.sequence_parallel:
        refuse(NAME, "shards the sequence wherever it splits tensors; set sequence_parallel")
    if plan.ep > 1 and plan.etp not in (1, plan.tp):
        refuse(NAME, f"splits experts over all of tp or none of it, not etp={plan.etp} of tp={plan.tp}")
    values: dict[str, Any] = {"tensor_parallel_degree": plan.tp, "context_parallel_degree": plan.cp}
    if plan.cp > 1:
        values["context_parallel_rotate_method"] = "allgather" if plan.cp_gather else "alltoall"
    if plan.ep > 1:
        values |= {"expert_parallel_degree": plan.ep, "expert_tensor_parallel_degree": plan.etp}
    return values


def _sharding(plan: Plan) -> dict[str, Any]:
    """FSDP (ZeRO 3) over dp and cp, HSDP, or plain replicas where nothing else is split."""
    if plan.zero_stage in (1, 2):
        refuse(NAME, f"shards parameters too (zero_stage=3) or nothing, not zero_stage={plan.zero_stage}")
    if plan.zero_stage == 3:
        return {
            "data_parallel_replicate_degree": plan.dp_replicate,
            "data_parallel_shard_degree": plan.dp // plan.dp_replicate,
            "fsdp_reshard_after_forward": "always" if plan.reshard_after_forward else "never",
        }
    if plan.dp > 1 and plan.dp != plan.num_ranks:
        refuse(NAME, "replicates data (zero_stage=0) only where nothing else is split; use zero_stage=3")
    if plan.cp > 1:
        refuse(NAME, "shards parameters over cp wherever it splits the context; use zero_stage=3")
    return {"data_parallel_replicate_degree": plan.dp, "data_parallel_shard_degree": 1}


def _pipeline(plan: Plan, model: ModelShape) -> dict[str, Any]:
    if plan.pp == 1:
        return {"pipeline_parallel_degree": 1}
    if plan.schedule not in _SCHEDULES:
        refuse(NAME, f"is not written for the schedule {plan.schedule}; use one of {', '.join(_SCHEDULES)}")
    blocks, chunks = num_blocks(model), plan.pp * plan.vp
    less = int(blocks % chunks != 0)
    if (blocks + 2 * less) % chunks:
        refuse(NAME, f"cannot cut {blocks} layers into pp*vp={chunks} stages that differ only at the two ends")
    return {
        "pipeline_parallel_degree": plan.pp,
        "pipeline_parallel_schedule": _SCHEDULES[plan.schedule],
        "pipeline_parallel_microbatch_size": plan.micro_batch,
        "pipeline_parallel_first_stage_less_layers": less,
        "pipeline_parallel_last_stage_less_layers": less,
        "pipeline_parallel_layers_per_stage": (blocks + 2 * less) // chunks,
    }


def _checkpointing(plan: Plan) -> dict[str, str]:
    if plan.recompute not in _RECOMPUTE:
        refuse(NAME, f"has no switch for recompute={plan.recompute.name.lower()}; use none, operators or full")
    return _RECOMPUTE[plan.recompute]
