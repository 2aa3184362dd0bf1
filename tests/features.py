"""The registry of splits that are run for real; every member must pass the gates of `tests/test_features.py`."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from planner.plan import Plan
from planner.recompute import Module, Recompute
from profiles.model import MixtureOfExperts, TransformerShape
from profiles.workload import TrainingJob
from validate.launch import launch_local, run_rank
from validate.runnable import RunSpec

GPT = TransformerShape(
    name="gpt", source="made up for tests", family="gpt", num_layers=4, hidden_size=32, num_heads=4, num_kv_heads=4,
    head_dim=8, ffn_size=64, vocabulary_size=64, max_sequence_length=16, num_learned_positions=16,
    norm="layer_norm", qkv_bias=True, linear_bias=True,
)  # fmt: skip
LLAMA = GPT.model_copy(
    update={
        "name": "llama",
        "num_kv_heads": 2,
        "gated_ffn": True,
        "norm": "rms_norm",
        "num_learned_positions": 0,
        "qkv_bias": False,
        "linear_bias": False,
    }
)
MIXTURE = LLAMA.model_copy(
    update={
        "name": "mixture",
        "moe": MixtureOfExperts(
            num_experts=4, top_k=2, expert_ffn_size=32, num_shared_experts=1, num_first_dense_layers=1
        ),
    }
)
"""A dense layer, then three with four experts and a shared one."""
TIED = LLAMA.model_copy(update={"name": "tied", "tied_embeddings": True})
TOLERANCE = 2e-6
"""Relative difference of losses in fp32: sums are taken in another order, nothing else."""


def job(model: TransformerShape = GPT, **changes: Any) -> TrainingJob:
    return TrainingJob(model=model, global_batch=8, sequence_length=16, precision="fp32").model_copy(update=changes)


def run(plan: Plan, model: TransformerShape = GPT, **options: Any) -> list[dict[str, Any]]:
    options = {"num_warmup": 0, "num_steps": 3, "device": "cpu"} | options
    changes = {name: options.pop(name) for name in ("precision", "global_batch", "sequence_length") if name in options}
    spec = RunSpec(job(model, **changes), plan, **options)
    values = json.loads(json.dumps(spec.to_json()))
    return launch_local(run_rank, values, plan.num_ranks, timeout_seconds=120, oversubscribe=True)


def losses(results: list[dict[str, Any]]) -> list[float]:
    (first, *others) = [result["losses"] for result in results if result["losses"] is not None]
    assert all(other == pytest.approx(first, rel=TOLERANCE) for other in others)
    return list(first)


@cache
def reference(model: TransformerShape, precision: str = "fp32", global_batch: int = 8) -> tuple[float, ...]:
    """Losses of one rank."""
    return tuple(losses(run(Plan(), model, precision=precision, global_batch=global_batch)))


@dataclass(frozen=True)
class Feature:
    """A way to split, and the model it is tried on."""

    plan: Plan
    model: TransformerShape
    precision: str = "fp32"


def _features(model: TransformerShape, precision: str = "fp32", **plans: dict[str, Any]) -> dict[str, Feature]:
    return {
        f"{name} {model.name}": Feature(Plan(**({"micro_batch": 2} | fields)), model, precision)
        for name, fields in plans.items()
    }


FULL, SELECTIVE = Recompute.FULL, Recompute.SELECTIVE
FEATURES: dict[str, Feature] = {
    **_features(
        GPT,
        dp={"dp": 2},
        dp_one_microbatch={"dp": 2, "micro_batch": 4},
        zero1={"dp": 2, "zero_stage": 1},
        zero2={"dp": 2, "zero_stage": 2},
        fsdp={"dp": 2, "zero_stage": 3},
        fsdp_odd={"dp": 3, "zero_stage": 3, "micro_batch": 1},
        tp={"tp": 2},
        tp_sp={"tp": 2, "sequence_parallel": True},
        tp_sp_zero1={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 1},
        tp_sp_zero2={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 2},
        pp={"pp": 2},
        pp_interleaved={"pp": 2, "vp": 2, "schedule": "interleaved"},
        cp={"cp": 2},
    ),
    **_features(
        LLAMA,
        dp={"dp": 2},
        zero1_in_groups={"dp": 4, "zero_stage": 1, "dp_replicate": 2},
        fsdp_kept={"dp": 2, "zero_stage": 3, "reshard_after_forward": False},
        fsdp_recompute={"dp": 2, "zero_stage": 3, "recompute": FULL},
        hsdp={"dp": 4, "zero_stage": 3, "dp_replicate": 2},
        tp_recompute={"tp": 2, "recompute": FULL, "recompute_layers": 3},
        tp_sp_fsdp={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 3},
        tp_dp={"dp": 2, "tp": 2},
        recompute_core={"dp": 2, "recompute": SELECTIVE},
        recompute_core_and_mlp={"tp": 2, "recompute": SELECTIVE, "recompute_modules": Module.CORE_ATTN | Module.MLP},
        recompute_operators={"dp": 2, "zero_stage": 3, "recompute": Recompute.OPERATORS},
        pp_gpipe_recompute={"pp": 2, "schedule": "gpipe", "recompute": FULL},
        pp_uneven={"pp": 2, "layout": (3, 1)},
        pp_breadth_first={"pp": 2, "vp": 2, "schedule": "breadth-first"},
        pp_zb_h1={"pp": 2, "schedule": "zb-h1"},
        pp_zb_v={"pp": 2, "vp": 2, "schedule": "zb-v"},
        pp_dualpipe_v_recompute={"pp": 2, "vp": 2, "schedule": "dualpipe-v", "recompute": FULL},
        pp_dp={"dp": 2, "pp": 2},
        pp_zero1_zb_h1={"dp": 2, "pp": 2, "zero_stage": 1, "schedule": "zb-h1"},
        pp_fsdp={"dp": 2, "pp": 2, "zero_stage": 3},
        pp_fsdp_kept={"dp": 2, "pp": 2, "zero_stage": 3, "reshard_after_forward": False},
        pp_tp_sp={"tp": 2, "pp": 2, "sequence_parallel": True},
        cp={"cp": 2, "recompute": FULL},
        cp_gather={"cp": 2, "cp_gather": True},
        cp_ulysses={"cp": 2, "cp_a2a": 2},
        cp_both={"cp": 4, "cp_a2a": 2},
        cp_dp_fsdp={"cp": 2, "dp": 2, "zero_stage": 3},
        cp_tp_sp={"cp": 2, "tp": 2, "sequence_parallel": True},
    ),
    **_features(
        MIXTURE,
        dp={"dp": 2},
        ep={"dp": 2, "ep": 2},
        ep_dp={"dp": 4, "ep": 2},
        ep_cp_zero1={"dp": 2, "cp": 2, "ep": 2, "zero_stage": 1},
        ep_fsdp={"dp": 4, "ep": 2, "zero_stage": 3},
        ep_fsdp_whole={"dp": 2, "ep": 2, "zero_stage": 3},
        ep_recompute_moe={"dp": 2, "ep": 2, "recompute": SELECTIVE, "recompute_modules": Module.MOE},
        ep_pp_recompute={"dp": 2, "pp": 2, "ep": 2, "recompute": FULL},
    ),
    **_features(
        TIED,
        zero1={"dp": 2, "zero_stage": 1},
        fsdp={"dp": 2, "zero_stage": 3},
        tp={"tp": 2},
    ),
    **{
        f"{name} bf16": feature
        for name, feature in _features(
            LLAMA,
            "bf16",
            dp={"dp": 2},
            fsdp={"dp": 2, "zero_stage": 3},
            tp_sp_zero1={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 1},
            pp={"pp": 2, "schedule": "zb-h1"},
            cp={"cp": 2},
        ).items()
    },
}
"""Name -> what is run. Where two names meet, both are in force."""
