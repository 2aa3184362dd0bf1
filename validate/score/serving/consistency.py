"""Rows whose own figures say that fewer requests ran at a time than they state."""

from typing import TYPE_CHECKING

from planner.cost.kv import serving_memory
from planner.cost.serving import served_shard
from validate.runs.resolve import Unmodelled

if TYPE_CHECKING:
    from validate.score.serving.resolve import ServedSetting


def check_slots(setting: "ServedSetting") -> None:
    """Raises Unmodelled where requests of a closed loop waited longer than they ran although memory holds them all.

    A loop with as many slots as clients makes a request wait for the prompts before it alone; waits that are longer
    than whole answers are for a slot. By Little's law clients x answer / (wait + answer) ran [Little 1961,
    doi:10.1287/opre.9.3.383], and how many slots there were is not stated.
    """
    row, protocol, plan = setting.row, setting.protocol, setting.plan
    if plan.prefill or protocol.kind != "closed loop" or not (row.ttft_seconds and row.tpot_seconds):
        return
    if not row.concurrency or row.ttft_seconds <= row.tpot_seconds * row.output_tokens:
        return
    shard = served_shard(plan, plan.decode, setting.engine)
    memory = serving_memory(setting.model, shard, setting.cluster.accelerator.memory_bytes, setting.engine)
    if memory.num_kv_tokens >= row.concurrency * (row.input_tokens + row.output_tokens):
        raise Unmodelled("requests waited longer than they ran although memory holds all: slots are not stated")
