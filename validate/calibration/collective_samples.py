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
        "all_to_all": _all_to_all, "send_recv": _pass_on,
    }  # fmt: skip
    work = list(itertools.product(calls, values["num_bytes"]))
    for index, (op, num_bytes) in enumerate(work):
        report(f"{index + 1} of {len(work)}")
        elements = max(1, num_bytes // 4 // world) * world
        run = calls[op](torch.ones(elements, device=bench.device), world)
        rows.append({"op": op, "num_bytes": 4 * elements, "seconds": bench.message(run)})
    return leave(bench, rows)


Prepared = Callable[[], object]
"""One call of a collective, its buffers made."""


def _all_reduce(buffer: Tensor, world: int) -> Prepared:
    return lambda: dist.all_reduce(buffer)


def _all_gather(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: all_gather_single(buffer, mine)


def _reduce_scatter(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: reduce_scatter_single(mine, buffer)


def _all_to_all(buffer: Tensor, world: int) -> Prepared:
    other = torch.empty_like(buffer)
    return lambda: dist.all_to_all_single(other, buffer)


def _pass_on(buffer: Tensor, world: int) -> Prepared:
    """Once around a ring: every rank sends to the next and receives from the one before, as sendrecv_perf does.

    A message there and back is no measure of it on CPUs, where a rank's core copies both what comes and what goes.
    """
    rank, coming = dist.get_rank(), torch.empty_like(buffer)

    def run() -> None:
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, buffer, (rank + 1) % world),
                dist.P2POp(dist.irecv, coming, (rank - 1) % world),
            ]
        )
        for work in works:
            work.wait()

    return run
