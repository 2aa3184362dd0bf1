"""A clock for micro-benchmarks that all ranks run together, and that measures again what other processes disturbed."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from profiles.units import MILLI
from validate.measure import Usage, keep_freed_memory, settle_process
from validate.worker import choose_device, join

_MOST_FOREIGN_CORES = 0.12
"""Cores that others may keep busy during a measurement; the kernel counts in ticks, so that less is noise."""
_PAUSE_SECONDS = 0.3
_BETWEEN_SIZE, _BETWEEN_SECONDS = 512, 3e-3
"""A square product between two messages, and about what it takes on a core."""
_LEAST_REPEATS, _MOST_REPEATS = 5, 500
_LEAST_TIMED_SECONDS = 2e-4
"""Shorter calls are timed several at once."""


@dataclass(slots=True)
class Bench:
    """How long to repeat, on which device, and how long to wait for other processes to go away."""

    device: torch.device
    seconds: float
    patience_seconds: float
    num_left_out: int = 0
    """Measurements thrown away because other processes ran beside them."""
    num_contended: int = 0
    """Measurements kept although other processes ran beside them, as patience was spent."""

    def kernel(self, run: Callable[[], object]) -> float:
        """Median seconds of one call, while all ranks call the same."""
        self.sync(run)
        calls = max(1, int(_LEAST_TIMED_SECONDS / max(self.sync(run), 1e-9)))
        return self._undisturbed(lambda: self._repeat(run, calls))

    def message(self, run: Callable[[], object]) -> float:
        """Median seconds of one call in which all ranks take part, and therefore call equally often.

        Between calls ranks compute, as in training: threads fall asleep, caches are cold, and ranks arrive apart.
        """
        work = torch.ones(_BETWEEN_SIZE, _BETWEEN_SIZE, device=self.device)

        def apart() -> float:
            self.sync(lambda: work @ work)
            return self.sync(run)

        apart()
        first = torch.tensor([apart()], device=self.device)
        dist.all_reduce(first, op=dist.ReduceOp.MAX)
        repeats = min(_MOST_REPEATS, max(_LEAST_REPEATS, int(self.seconds / (float(first) + _BETWEEN_SECONDS))))
        return self._undisturbed(lambda: statistics.median(apart() for _ in range(repeats)))

    def _repeat(self, run: Callable[[], object], calls: int) -> float:
        times: list[float] = []
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end or len(times) < _LEAST_REPEATS:
            times.append(self.sync(run, calls))
        return statistics.median(times)

    def _undisturbed(self, measure: Callable[[], float]) -> float:
        """Measure until no other process ran beside it, or patience is spent; the least disturbed one counts."""
        attempts: list[tuple[float, float]] = []
        while True:
            dist.barrier()
            before = Usage.now()
            seconds = measure()
            attempts.append((self._foreign_cores(before), seconds))
            if attempts[-1][0] <= _MOST_FOREIGN_CORES or self.patience_seconds <= 0.0:
                break
            time.sleep(_PAUSE_SECONDS)
            self.patience_seconds -= time.perf_counter() - before.wall_seconds
        foreign, seconds = min(attempts)
        self.num_left_out += len(attempts) - 1
        self.num_contended += foreign > _MOST_FOREIGN_CORES
        return seconds

    def _foreign_cores(self, before: Usage) -> float:
        """Cores that others kept busy since `before`; ranks agree on it, so that all measure again or none."""
        used = before.until(Usage.now())
        own = torch.tensor([used["own_core_seconds"]], dtype=torch.float64, device=self.device)
        dist.all_reduce(own)
        agreed = torch.tensor([(used["busy_core_seconds"] - float(own)) / used["wall_seconds"], self.patience_seconds],
                              dtype=torch.float64, device=self.device)  # fmt: skip
        dist.broadcast(agreed, src=0)
        self.patience_seconds = float(agreed[1])
        return float(agreed[0])

    def sync(self, run: Callable[[], object], calls: int = 1) -> float:
        """Seconds of one of `calls` calls: by the host's clock, or between two events of a CUDA stream."""
        if self.device.type == "cuda":
            return self._between_events(run, calls)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def _between_events(self, run: Callable[[], object], calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * MILLI / calls

    def host_seconds(self, run: Callable[[], object], calls: int) -> float:
        """Seconds the host takes to launch one of `calls` calls; on CUDA the device may still be at work."""
        start = time.perf_counter()
        for _ in range(calls):
            run()
        taken = (time.perf_counter() - start) / calls
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return taken


def enter(values: dict[str, Any]) -> Bench:
    """Join the ranks that `values` describe, with a quiet process."""
    device = choose_device(values["device"])
    settle_process(device)
    keep_freed_memory()
    join(device, int(os.environ["WORLD_SIZE"]), values.get("collective_timeout_seconds", 60.0))
    return Bench(device, values["seconds_per_sample"], values["patience_seconds"])


def leave(bench: Bench, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Part with the other ranks; what this one found, and on what."""
    dist.destroy_process_group()
    device = bench.device
    return {
        "rows": rows,
        "num_left_out": bench.num_left_out,
        "num_contended": bench.num_contended,
        "device": device.type,
        "device_name": str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "",
        "device_bytes": float(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0.0,
        "torch": torch.__version__,
    }
