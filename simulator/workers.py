"""Who plays the runs of a Monte Carlo simulation: this process, a pool of processes, or a Dask cluster."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

RUNS_FOR_A_POOL = 1000
"""Runs from which on starting processes is worth it, where nobody says how many there are to be."""


@contextmanager
def workers(num_workers: int | None, scheduler: str | None, num_runs: int) -> Iterator[Executor | None]:
    """An executor, or None for this process: a Dask `scheduler` by its address, else a pool of `num_workers`.

    Without either, a pool of one process a core where there are RUNS_FOR_A_POOL runs or more. Raises ValueError for a
    scheduler that cannot be reached, or without the extra `cluster`.
    """
    if scheduler is not None:
        client = _client(scheduler)
        try:
            yield client.get_executor()
        finally:
            client.close()
        return
    default = (os.cpu_count() or 1) if num_runs >= RUNS_FOR_A_POOL else 1
    count = min(num_workers or default, num_runs)
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count) as pool:
        yield pool


def _client(scheduler: str):  # type: ignore[no-untyped-def]  # distributed is an extra
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(
            f"scheduler: {scheduler} needs Dask; install it with pip install 'meshwise[cluster]', or leave it out"
        ) from None
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(f"scheduler: no Dask scheduler answers at {scheduler} ({type(error).__name__})") from None
