"""Honest clocks for one rank: spans of phases, time lost to other processes, peak memory.

CPU steps are timed by the host; CUDA phases by events on the stream, read after the step has ended.
"""

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from profiles.units import GIB, KIB, MIB, MILLI, NANO
from validate.trace.storage import Storages

_MALLOPT_TRIM_THRESHOLD, _MALLOPT_TOP_PAD, _MALLOPT_MMAP_THRESHOLD = -1, -2, -3
"""Parameter numbers of mallopt(3)."""
_CLEAR_PEAK = "5"
"""What resets the peak resident set when written to /proc/self/clear_refs (proc(5))."""


def settle_process(device: torch.device) -> None:
    """One compute thread, and a scheduling class under which gloo's polling threads do not steal the core.

    On CPUs a rank keeps to its own share of the cores: left alone, the kernel moves its threads onto each other's
    cores, and a message takes between one and ten times as long.
    """
    torch.set_num_threads(1)
    if device.type == "cpu":
        _keep_to_own_cores()
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _keep_to_own_cores() -> None:
    """Bind this process, and the threads it starts later, to its share of the cores; ranks beyond them take turns.

    Only where all ranks run on this machine: elsewhere whoever started them knows which cores are theirs.
    """
    rank, ranks = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
    if ranks < 2 or ranks != int(os.environ.get("WORLD_SIZE", "0")) or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    width = max(1, len(cores) // ranks)
    first = rank * width % len(cores)
    os.sched_setaffinity(0, cores[first : first + width])


def keep_freed_memory() -> None:
    """Let malloc keep freed blocks, as a GPU's caching allocator does: else each step pays its page faults again."""
    _tune_malloc({_MALLOPT_MMAP_THRESHOLD: int(32 * MIB), _MALLOPT_TRIM_THRESHOLD: int(2 * GIB - 1)})


def return_freed_memory() -> None:
    """Make malloc give freed blocks back at once, so that the resident set is what tensors hold.

    Those that an earlier run of this process kept go too: under torchrun all runs share one.
    """
    small = int(64 * KIB)
    _tune_malloc({_MALLOPT_MMAP_THRESHOLD: small, _MALLOPT_TRIM_THRESHOLD: small, _MALLOPT_TOP_PAD: 0})
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _tune_malloc(values: dict[int, int]) -> None:
    """Set parameters of glibc's malloc; other C libraries have none and keep their ways."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in values.items():
            libc.mallopt(parameter, value)


def queue_wait_seconds() -> float:
    """Seconds the main thread has waited for a core so far; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) * NANO
    except (OSError, IndexError, ValueError):
        return 0.0


def num_preemptions() -> float:
    """Involuntary context switches of all threads of this process so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def busy_core_seconds() -> float:
    """Core seconds that all processes of this machine, and its hypervisor, have used so far; 0 where unknown."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, interrupt, soft_interrupt, steal = (int(field) for field in fields[:8])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + interrupt + soft_interrupt + steal) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What has been used up to now; differences tell what a stretch of time met."""

    wall_seconds: float
    own_core_seconds: float
    """Of all threads of this process."""
    busy_core_seconds: float
    queue_wait_seconds: float
    num_preemptions: float
    """Times the kernel took the core away from this process (involuntary context switches)."""

    @classmethod
    def now(cls) -> "Usage":
        """Read the clocks."""
        return cls(
            time.perf_counter(), time.process_time(), busy_core_seconds(), queue_wait_seconds(), num_preemptions()
        )

    def until(self, later: "Usage") -> dict[str, float]:
        """Field -> growth since this moment."""
        return {name: getattr(later, name) - getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Recorder:
    """Spans of one step: (name, start, end) in seconds from the step's start."""

    device: torch.device
    spans: list[tuple[str, Any, Any]] = field(default_factory=list)
    origin: Any = None

    def start(self) -> None:
        """Forget the last step and take this moment as zero."""
        self.spans.clear()
        self.origin = self.mark()

    def mark(self) -> Any:
        """This moment: host seconds on a CPU, an event on the current stream on CUDA."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, name: str, start: Any, end: Any) -> None:
        """Note a span between two marks."""
        self.spans.append((name, start, end))

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Note the time the body takes."""
        start = self.mark()
        yield
        self.add(name, start, self.mark())

    def read(self) -> list[list[Any]]:
        """[name, start, end] of every span in seconds; on CUDA call it after a synchronisation."""
        return [[name, self._since_origin(start), self._since_origin(end)] for name, start, end in self.spans]

    def _since_origin(self, mark: Any) -> float:
        if self.device.type != "cuda":
            return float(mark - self.origin)
        return float(self.origin.elapsed_time(mark)) * MILLI


class _RealStorages(Storages):
    """Storages with memory behind them: torch's sharding rules are tried on tensors without any."""

    def _follow(self, storage: torch.UntypedStorage, made_by: str) -> None:
        if storage.device.type != "meta":
            super()._follow(storage, made_by)


class PeakMemory:
    """Peak memory of this process: the CUDA allocator's, or the resident set of a CPU process; and that of tensors."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before_bytes = _status_bytes("VmRSS") if device.type != "cuda" else 0.0
        self.storages: Storages | None = None
        self.restart()

    def restart(self) -> None:
        """Forget the peaks so far; what is held stays counted."""
        if self.storages is not None:
            self.storages.peak_bytes = self.storages.total_bytes
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)

    @contextlib.contextmanager
    def tracked(self) -> Iterator[None]:
        """Follow every tensor that is made meanwhile; enter it before any is."""
        self.storages = _RealStorages(lambda: ("", ""))
        with self.storages, self.storages.resizes():
            yield

    def read(self) -> dict[str, float]:
        """`allocated_bytes` and `reserved_bytes` at their peaks; on a CPU both are the growth of the resident set.

        With `tracked`, `tensor_bytes` too: the most that tensors held at once.
        """
        tensors = {"tensor_bytes": self.storages.peak_bytes} if self.storages is not None else {}
        if self.device.type == "cuda":
            return tensors | {
                "allocated_bytes": float(torch.cuda.max_memory_allocated(self.device)),
                "reserved_bytes": float(torch.cuda.max_memory_reserved(self.device)),
            }
        grown = _status_bytes("VmHWM") - self.before_bytes
        return tensors | {"allocated_bytes": grown, "reserved_bytes": grown}


def _status_bytes(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) * KIB
    return float("nan")
