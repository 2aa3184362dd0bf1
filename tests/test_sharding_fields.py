"""What a source says of sharding becomes plan fields, and only what it says."""

from dataclasses import replace
from typing import Any

import pytest

from validate.runs.frameworks import Framework
from validate.runs.sharding import sharding_fields
from validate.runs.table import COLUMNS, Run

NOTHING: dict[str, Any] = dict.fromkeys(COLUMNS)
BASE = Run(**NOTHING | {"other_flags": "", "notes": "", "zero_stage_or_fsdp": ""})
FSDP = Framework(r"^pytorch", "torchtitan", runs_fsdp=True)
ZERO = Framework(r"^deepspeed", "megatron-core", zero_stage=1)


@pytest.mark.parametrize(
    ("rule", "said", "dp", "pp", "expected"),
    [
        (FSDP, "fsdp", 8, 1, {"zero_stage": 3, "reshard_after_forward": True}),
        (FSDP, "fsdp", 8, 2, {"zero_stage": 3, "reshard_after_forward": False}),
        (FSDP, "2", 8, 1, {"zero_stage": 3, "reshard_after_forward": False}),
        (ZERO, "2", 8, 1, {"zero_stage": 2}),
        (ZERO, "3", 8, 1, {"zero_stage": 3, "reshard_after_forward": True}),
        (ZERO, "", 8, 1, {"zero_stage": 1}),
        (ZERO, "0", 8, 1, {"zero_stage": 0}),
        (ZERO, "3", 1, 1, {"zero_stage": 0}),
        (FSDP, "hsdp", 64, 1, {"zero_stage": 3, "reshard_after_forward": True, "dp_replicate": 8}),
    ],
)
def test_stages_and_strategies(rule: Framework, said: str, dp: int, pp: int, expected: dict[str, Any]) -> None:
    run = replace(BASE, zero_stage_or_fsdp=said, dp=dp, pp=pp)
    assert sharding_fields(run, rule, devices_per_node=8) == expected


@pytest.mark.parametrize("words", ["FSDP shard group size 16", "zero1 size = 16", "ZeRO-1 group: 16", "sharding 16"])
def test_a_stated_shard_group_is_taken(words: str) -> None:
    run = replace(BASE, zero_stage_or_fsdp="fsdp", dp=64, other_flags=words)
    assert sharding_fields(run, FSDP, devices_per_node=8)["dp_replicate"] == 4


@pytest.mark.parametrize("words", ["FSDP FULL_SHARD", "FSDP shard group size 64", "shard group size 48"])
def test_a_group_of_all_ranks_or_none_that_fits_leaves_one_copy(words: str) -> None:
    run = replace(BASE, zero_stage_or_fsdp="fsdp", dp=64, other_flags=words)
    assert sharding_fields(run, FSDP, devices_per_node=8).get("dp_replicate", 1) == 1
