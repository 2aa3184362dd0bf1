"""A configuration file of DeepSpeed (`--deepspeed_config`).

Names: deepspeedai/DeepSpeed, deepspeed/runtime/{config,constants,precision_config}.py, runtime/zero/config.py,
runtime/tensor_parallel/config.py and module_inject/auto_ep_config.py, as of the release below.
"""

import json
from typing import Any

from meshwise.export.registry import Exported, refuse, target
from meshwise.jobfile import Question
from planner.plan import Plan, Recompute

RELEASE = "v0.19.5 (cf44300)"
NAME = "deepspeed"
_FIELDS = ("dp", "tp", "cp", "ep", "etp", "cp_a2a", "micro_batch", "recompute", "zero_stage", "dp_replicate")
_ELSEWHERE = {
    "pp": "stages are set in the model's code, by PipelineModule(num_stages=...)",
    "sequence_parallel": "it is a matter of the model's code",
}
_PRECISION: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"bf16": {"enabled": True}},
                                         "fp16": {"fp16": {"enabled": True}}}  # fmt: skip


@target(NAME, release=RELEASE, ending=".json", fields=_FIELDS, elsewhere=_ELSEWHERE)
def write(plan: Plan, question: Question) -> Exported:
    """The batch, the precision, ZeRO and what DeepSpeed injects into a model by itself, as JSON."""
    job, stack = question.job, question.stack
    if job.precision not in _PRECISION:
        refuse(NAME, f"trains in fp32, bf16 or fp16, not {job.precision}")
    values: dict[str, Any] = {
        "train_batch_size": job.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.num_microbatches(job.global_batch),
        **_PRECISION[job.precision],
        "zero_optimization": _zero(plan, overlaps=stack.dp_overlap),
    }
    if job.precision != "fp32":
        values["data_types"] = {"grad_accum_dtype": "fp32" if stack.gradient_bytes > 2.0 else job.precision}
    if plan.tp > 1:
        values["tensor_parallel"] = {"autotp_size": plan.tp}
    if plan.cp > 1:
        values |= {"data_parallel_size": plan.dp, "sequence_parallel_size": _ulysses(plan)}
    if plan.ep > 1:
        values["expert_parallel"] = _experts(plan)
    if plan.recompute is Recompute.FULL:
        values["activation_checkpointing"] = {"partition_activations": False, "cpu_checkpointing": False}
    elif plan.recompute is not Recompute.NONE:
        refuse(NAME, f"has no setting for recompute={plan.recompute.name.lower()}; use none or full")
    return Exported(json.dumps(values, indent=2) + "\n", _notes(plan))


def _zero(plan: Plan, *, overlaps: bool) -> dict[str, Any]:
    values: dict[str, Any] = {"stage": plan.zero_stage, "overlap_comm": overlaps}
    if plan.dp_replicate > 1:
        if plan.zero_stage != 3:
            refuse(NAME, f"keeps groups of shards (MiCS) under ZeRO 3 only, not zero_stage={plan.zero_stage}")
        values["mics_shard_size"] = plan.dp * plan.cp // plan.dp_replicate
    return values


def _ulysses(plan: Plan) -> int:
    if plan.cp_a2a != plan.cp:
        refuse(NAME, f"splits sequences by all-to-all (Ulysses) alone; set cp_a2a to cp={plan.cp}")
    if plan.tp > 1:
        refuse(NAME, f"takes either tensor or sequence parallelism, not tp={plan.tp} with cp={plan.cp}")
    return plan.cp


def _experts(plan: Plan) -> dict[str, Any]:
    if plan.tp > 1 and plan.zero_stage == 3:
        refuse(NAME, "takes experts beside tensor parallelism up to ZeRO 2, not 3")
    return {"enabled": True, "autoep_size": plan.ep, "expert_tensor_parallel_size": plan.etp}


def _notes(plan: Plan) -> tuple[str, ...]:
    notes = ["the model, its data, the optimizer and the learning rate are left to you"]
    if plan.tp > 1:
        notes.append("tensor parallelism is injected (AutoTP) into models that DeepSpeed has a preset for")
    if plan.ep > 1:
        notes.append("expert parallelism is injected (AutoEP) into models that DeepSpeed has a preset for")
    if plan.cp > 1:
        notes.append("the model's attention has to go through deepspeed.sequence (Ulysses)")
    if plan.recompute is Recompute.FULL:
        notes.append("call deepspeed.checkpointing.checkpoint on every layer: the file only says how it works")
    return tuple(notes)
