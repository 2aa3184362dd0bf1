"""Micro-benchmarks of messages: every collective over all ranks of a launch, by size."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from validate.calibration.bench import enter, leave
from validate.launch import Report
from validate.parallel.groups import all_gather_single, reduce_scatter_single


def collective_samples(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Times of collectives over all ranks, as a body of `validate.launch`; sizes as in nccl-tests.

    `values`: `device`, `seconds_per_sample`, `patience_seconds`, `num_bytes` (sizes).
    Returns rows of {"op", "num_bytes", "seconds"}.
    """
    bench = enter(values)
    world, rows = dist.get_world_size(), []
    calls = {
        "all_reduce": _all_reduce, "all_gather": _all_gather, "reduce_scatter": _reduce_scatter,
        "all_to_all": _all_to_all, "send_recv": _ping_pong,
    }  # fmt: skip
    work = list(itertools.product(calls, values["num_bytes"]))
    for index, (op, num_bytes) in enumerate(work):
        report(f"{index + 1} of {len(work)}")
        elements = max(1, num_bytes // 4 // world) * world
        run, calls_per_run = calls[op](torch.ones(elements, device=bench.device), world)
        rows.append({"op": op, "num_bytes": 4 * elements, "seconds": bench.message(run) / calls_per_run})
    return leave(bench, rows)


Prepared = tuple[Callable[[], object], int]
"""(a call, messages it sends one after another)."""


def _all_reduce(buffer: Tensor, world: int) -> Prepared:
    return lambda: dist.all_reduce(buffer), 1


def _all_gather(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: all_gather_single(buffer, mine), 1


def _reduce_scatter(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: reduce_scatter_single(mine, buffer), 1


def _all_to_all(buffer: Tensor, world: int) -> Prepared:
    other = torch.empty_like(buffer)
    return lambda: dist.all_to_all_single(other, buffer), 1


def _ping_pong(buffer: Tensor, world: int) -> Prepared:
    """There and back between the first and the last rank; the others look on."""
    rank, last = dist.get_rank(), world - 1

    def run() -> None:
        if rank == 0:
            dist.send(buffer, last)
            dist.recv(buffer, last)
        elif rank == last:
            dist.recv(buffer, 0)
            dist.send(buffer, 0)

    return run, 2
