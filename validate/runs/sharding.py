"""What a run's ZeRO stage or FSDP strategy means as plan fields."""

import re
from typing import Any

from profiles.exchange import Exchange
from validate.runs.frameworks import Framework
from validate.runs.table import Run

_GROUP = re.compile(
    r"(?:zero-?1|shard\w*)\s*(?:group|parallel)?\s*(?:size|degree)?\s*[:=]?\s*(\d+)\b", re.IGNORECASE
)  # fmt: skip
"""A shard group as sources state it: "FSDP shard group size 64", "zero1 size = 8"."""

STRATEGIES = ("", "0", "1", "2", "3", "fsdp", "hsdp")
"""What the column may say. "2" of a framework that runs FSDP is its SHARD_GRAD_OP."""


def sharding_fields(run: Run, rule: Framework, devices_per_node: int) -> dict[str, Any]:
    """The plan fields of a run's sharding; nothing is sharded over a single rank.

    FSDP under a pipeline keeps parameters gathered (torchtitan's default policy). Hybrid sharding shards within
    nodes unless the source says over how many ranks.
    """
    said = run.zero_stage_or_fsdp or str(rule.zero_stage)
    if said not in STRATEGIES:
        return {}
    replicas = (run.dp or 1) * (run.cp or 1)
    if said == "0" or replicas == 1:
        return {"zero_stage": 0}
    fields = _strategy(said, rule, run.pp or 1)
    group = _group_size(run, said, devices_per_node)
    if group and group > 1 and replicas % group == 0 and (run.dp or 1) % (replicas // group) == 0:
        fields["dp_replicate"] = replicas // group
    return fields


def _strategy(said: str, rule: Framework, num_stages: int) -> dict[str, Any]:
    if said == "1" or (said == "2" and not rule.runs_fsdp):
        return {"zero_stage": int(said)}
    keeps = said == "2" or (said in ("fsdp", "hsdp") and num_stages > 1)
    return {"zero_stage": 3, "reshard_after_forward": not keeps}


def _group_size(run: Run, said: str, devices_per_node: int) -> int | None:
    """Ranks that share one copy, or None for all of them."""
    stated = _GROUP.search(f"{run.other_flags} | {run.notes}")
    if stated:
        return int(stated.group(1))
    return max(1, devices_per_node // (run.tp or 1)) if said == "hsdp" else None


def exchange_of(run: Run) -> Exchange:
    """The exchange of a run: torchtitan's float8 recipes gather in fp8 too."""
    gathers_fp8 = re.search(r"^torchtitan.*\|.*float8", f"{run.framework} | {run.other_flags}", re.IGNORECASE)
    return Exchange(gather_precision="fp8" if gathers_fp8 else "model")
