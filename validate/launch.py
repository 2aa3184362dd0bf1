"""Starts the ranks of a run on this machine, or joins those that torchrun started, and ends them whatever happens.

A failure is one `LaunchError` that names the rank which failed first. Ranks are forked from a server process
that has imported torch once; the caller needs no torch.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

Report = Callable[[str], None]
Body = Callable[[dict[str, Any], Report], dict[str, Any]]
"""What a rank runs: (values, report) -> result, all plain JSON values; it finds its rank in the environment."""

_GRACE_SECONDS = 2.0
"""After a first failure, the time other ranks get to say what they saw, so that the root cause can be told."""
STORE = "MESHWISE_STORE"
"""Variable with the file at which local ranks meet. A port that was free a moment ago may be taken by any connection of
another process before the first rank listens on it; a file of a folder of our own is not."""
_LOCALHOST = "127.0.0.1"
_LOOPBACK_NAMES = ("lo", "lo0")


class LaunchError(ValueError):
    """A run that could not start or did not finish: one sentence."""


class RunError(LaunchError):
    """A run that started and did not finish: nothing is wrong with what was asked for."""

    exit_code = 1


def run_rank(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """The body of a training run; imports torch in the rank only."""
    from validate.worker import run_rank as run

    return run(values, report)


def launch(
    body: Body,
    values: dict[str, Any],
    num_ranks: int,
    *,
    timeout_seconds: float = 600.0,
    port: int | None = None,
    oversubscribe: bool = False,
    on_progress: Report | None = None,
) -> list[dict[str, Any]]:
    """Run `body` on `num_ranks` ranks and return their results by rank.

    Under torchrun (RANK is set) the body runs here, as this process's rank, and every process gets all results.
    Otherwise local processes meet at 127.0.0.1:`port`, or without one in a file of their own. `on_progress` gets
    rank 0's phases.

    Raises LaunchError when torch is missing, the port is taken, there are fewer cores than ranks (unless
    `oversubscribe`), and RunError when a rank fails or dies, or the run exceeds `timeout_seconds`. No rank outlives
    this call.
    """
    if importlib.util.find_spec("torch") is None:
        raise LaunchError('validate needs torch, which is not installed; pip install "meshwise[validate]"')
    if "RANK" in os.environ:
        from validate.torchrun import run_in_place

        return run_in_place(body, values, num_ranks, timeout_seconds, on_progress)
    return launch_local(
        body, values, num_ranks, timeout_seconds=timeout_seconds, port=port, oversubscribe=oversubscribe,
        on_progress=on_progress,
    )  # fmt: skip


def launch_local(
    body: Body,
    values: dict[str, Any],
    num_ranks: int,
    *,
    timeout_seconds: float,
    port: int | None = None,
    oversubscribe: bool = False,
    on_progress: Report | None = None,
) -> list[dict[str, Any]]:
    """`launch` on this machine, whatever the environment says."""
    cores = num_cores()
    if num_ranks > cores and not oversubscribe and num_gpus() < num_ranks:
        raise LaunchError(
            f"the plan needs {num_ranks} ranks but this machine has {cores} cores, so that ranks would take turns "
            f"on them; take a plan of at most {cores} ranks, or give --oversubscribe"
        )
    with tempfile.TemporaryDirectory(prefix="meshwise-") as folder, _Ranks(Path(folder), on_progress) as ranks:
        ranks.start(body, values, num_ranks, port)
        return ranks.collect(time.monotonic() + timeout_seconds, timeout_seconds)


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """NVIDIA devices visible as files, without importing torch."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment; it may be taken at the next."""
    with socket.socket() as probe:
        probe.bind((_LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_LOCALHOST, port))
    except OSError as error:
        raise LaunchError(
            f"port: {port} on {_LOCALHOST} cannot be used ({error.strerror}); leave it out to take a free one"
        ) from None
    except OverflowError:
        raise LaunchError(f"port: {port} is not a port; take one of 1024 to 65535") from None


@dataclass(slots=True)
class _Rank:
    """One child process as its parent sees it."""

    number: int
    process: ForkServerProcess
    messages: Connection
    lifeline: Connection
    """Closed when the parent goes, however it goes; the child ends itself then."""
    log: Path
    phase: str = "starting"
    result: dict[str, Any] | None = None
    failure: str | None = None
    failed_at: float = 0.0
    died: bool = False

    @property
    def pending(self) -> bool:
        return self.result is None and self.failure is None


@dataclass(slots=True)
class _Ranks:
    """All ranks of a launch; leaving the context ends those that still run."""

    folder: Path
    on_progress: Report | None
    ranks: list[_Rank] = field(default_factory=list)

    def __enter__(self) -> "_Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            if rank.process.is_alive() and rank.result is None:
                rank.process.kill()
        for rank in self.ranks:
            rank.lifeline.close()
            rank.process.join()
            rank.messages.close()
            rank.process.close()

    def start(self, body: Body, values: dict[str, Any], num_ranks: int, port: int | None) -> None:
        if port is not None:
            _check_port(port)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["validate.worker"])
        meeting = {} if port is not None else {STORE: str(self.folder / "store")}
        shared = {
            "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": _LOCALHOST,
            "MASTER_PORT": str(free_port() if port is None else port), "TORCHELASTIC_USE_AGENT_STORE": "False",
        } | _loopback() | meeting  # fmt: skip
        for number in range(num_ranks):
            environment = shared | {"RANK": str(number), "LOCAL_RANK": str(number)}
            theirs, ours = context.Pipe(duplex=False), context.Pipe(duplex=False)
            log = self.folder / f"rank-{number}.log"
            process = context.Process(
                target=_child, args=(body, values, environment, log, theirs[1], ours[0]), daemon=True
            )
            process.start()
            theirs[1].close()
            ours[0].close()
            self.ranks.append(_Rank(number, process, theirs[0], ours[1], log))

    def collect(self, deadline: float, timeout_seconds: float) -> list[dict[str, Any]]:
        """Results by rank; raises LaunchError at the first failure (after the grace) or the deadline."""
        grace_end: float | None = None
        while pending := [rank for rank in self.ranks if rank.pending]:
            limit = deadline if grace_end is None else min(deadline, grace_end)
            ready = wait([rank.messages for rank in pending], timeout=max(0.0, limit - time.monotonic()))
            for rank in pending:
                if rank.messages in ready:
                    self._receive(rank)
            if grace_end is None and any(rank.failure for rank in self.ranks):
                grace_end = time.monotonic() + _GRACE_SECONDS
            if not ready and time.monotonic() >= limit:
                break
        if any(rank.failure for rank in self.ranks):
            raise RunError(self._verdict())
        late = [rank for rank in self.ranks if rank.pending]
        if late:
            where = ", ".join(f"rank {rank.number} in {rank.phase!r}" for rank in late)
            raise RunError(f"the run did not finish within {timeout_seconds:g} s; it stopped at {where}")
        return [rank.result for rank in self.ranks if rank.result is not None]

    def _receive(self, rank: _Rank) -> None:
        """Take one message; the end of the pipe without a result means that the process died."""
        try:
            kind, payload, moment = rank.messages.recv()
        except EOFError:
            rank.process.join()
            code = rank.process.exitcode or 0
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            rank.failure, rank.failed_at, rank.died = how + _last_words(rank.log), time.monotonic(), True
            return
        if kind == "phase":
            rank.phase = payload
            if self.on_progress is not None and rank.number == 0:
                self.on_progress(payload)
        elif kind == "done":
            rank.result = payload
        else:
            rank.failure, rank.failed_at = payload, moment

    def _verdict(self) -> str:
        """The root cause: a rank that died, else a silent one others timed out on, else the first that raised."""
        failed = sorted((rank for rank in self.ranks if rank.failure), key=lambda rank: (not rank.died, rank.failed_at))
        silent = [rank for rank in self.ranks if rank.pending]
        first = failed[0]
        if silent and all("timed out" in str(rank.failure).lower() for rank in failed):
            where = " and ".join(f"rank {rank.number} hung in {rank.phase!r}" for rank in silent)
            return f"{where}; rank {first.number} waited for it: {first.failure}"
        return f"rank {first.number} failed in {first.phase!r}: {first.failure}"


def _loopback() -> dict[str, str]:
    """Tell gloo to meet on the loopback device: the host's own name may not resolve."""
    names = {name for _, name in socket.if_nameindex()}
    present = [name for name in _LOOPBACK_NAMES if name in names]
    return {"GLOO_SOCKET_IFNAME": present[0]} if present else {}


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f" ({lines[-1][:300]})" if lines else ""


def _child(
    body: Body,
    values: dict[str, Any],
    environment: dict[str, str],
    log: Path,
    messages: Connection,
    lifeline: Connection,
) -> None:
    """The life of a rank: its output goes to `log`, its phases, result or error to `messages`."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline, log.parent), daemon=True).start()
    with open(log, "wb", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)

    def send(kind: str, payload: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            messages.send((kind, payload, time.monotonic()))

    try:
        send("done", body(values, lambda phase: send("phase", phase)))
    except Exception as error:
        text = str(error).strip().splitlines()
        send("error", f"{type(error).__name__}: {text[0][:300] if text else 'no message'}")
    messages.close()


def _end_with_parent(lifeline: Connection, folder: Path) -> None:
    """Wait until the parent has gone, remove what it may have left behind, and end."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
