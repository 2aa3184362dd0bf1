"""One rank of a run that torchrun started: runs in place and shares results through torchrun's store."""

import itertools
import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from validate.launch import Body, LaunchError, Report, RunError, launch_local

_RUNS = itertools.count()
"""Runs of this process, the same number on every rank: keys of one run must not meet those of the next."""


def run_in_place(
    body: Body, values: dict[str, Any], num_ranks: int, timeout_seconds: float, on_progress: Report | None
) -> list[dict[str, Any]]:
    """Run `body` as this process's rank and return every rank's result, the same list on all of them.

    A run of one rank (the baseline) happens in a child of rank 0 while the others wait. Raises LaunchError when
    torchrun started another number of processes than the plan has ranks.
    """
    rank, world = _place()
    if num_ranks not in (1, world):
        raise LaunchError(f"the plan needs {num_ranks} ranks but torchrun started {world}; use --nproc-per-node")
    store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
    exchange = dist.PrefixStore(f"run-{next(_RUNS)}", store)
    if num_ranks == 1 and world > 1:
        if rank == 0:
            _put(exchange, 0, lambda: launch_local(body, values, 1, timeout_seconds=timeout_seconds)[0])
        return [_get(exchange, 0)]
    report: Report = on_progress if on_progress is not None and rank == 0 else _ignore
    _put(exchange, rank, lambda: body(values, report))
    return [_get(exchange, other) for other in range(world)]


def _place() -> tuple[int, int]:
    """(rank, world size) that torchrun gave this process; raises LaunchError unless it gave all it gives."""
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise LaunchError(
            f"environment: RANK is set, as torchrun does, but not {', '.join(missing)}; unset RANK to start ranks "
            "here, or start them with torchrun"
        )
    values = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}
    if not all(value.isdecimal() for value in values.values()) or int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        words = ", ".join(f"{name}={value}" for name, value in values.items())
        raise LaunchError(f"environment: {words} is no place among ranks; RANK counts from 0 and is below WORLD_SIZE")
    return int(values["RANK"]), int(values["WORLD_SIZE"])


def _put(exchange: Any, rank: int, run: Callable[[], dict[str, Any]]) -> None:
    """Publish the result, or the error: the others must not wait for a rank that failed."""
    try:
        exchange.set(str(rank), json.dumps({"result": run()}))
    except Exception as error:
        exchange.set(str(rank), json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise


def _get(exchange: Any, rank: int) -> dict[str, Any]:
    answer = json.loads(exchange.get(str(rank)))
    if "error" in answer:
        raise RunError(f"rank {rank} failed: {answer['error']}")
    result: dict[str, Any] = answer["result"]
    return result


def _ignore(phase: str) -> None:
    """Phases of ranks other than the first are not shown."""
