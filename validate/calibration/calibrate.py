"""Measures this machine: micro-benchmarks on its own ranks, fitted to curves, written as a cluster file.

The file is what `profiles.catalog.cluster` reads. Without a datasheet a CPU's "peaks" are the best rates seen here.
"""

import os
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import cast

from profiles.cluster import ClusterSpec
from profiles.files import check_writable, write_whole
from profiles.workload import Precision
from profiles.writer import to_toml
from validate.calibration import quiet
from validate.calibration.describe import describe
from validate.calibration.effort import GPU, NORMAL, Effort
from validate.calibration.fit import Origin
from validate.calibration.journal import Journal
from validate.calibration.machine import machine_words, torch_version
from validate.calibration.probe import probe
from validate.calibration.sampling import Launcher, Progress, Sampler, Samples
from validate.launch import launch_local, num_cores, num_gpus

_MOST_RANKS = 4
_TIMEOUT_SECONDS = 600.0
_KERNELS_SHARE, _MESSAGES_SHARE = 0.5, 0.25
"""Of the whole time."""


def calibrate(
    output_path: str | os.PathLike[str],
    *,
    num_ranks: int | None = None,
    effort: Effort | None = None,
    device: str = "auto",
    overwrite: bool = False,
    on_progress: Progress | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    launcher: Launcher = launch_local,
) -> ClusterSpec:
    """Measure this machine with `num_ranks` ranks and write a cluster file.

    By default there is a rank for each GPU, or else for each core (at most 4), and `effort` is what suits them. Each
    launch may take `timeout_seconds`. The file appears whole or not at all; what an interrupted run had measured is
    kept beside it, and taken up by the next run. Returns what was written.

    Raises ValueError when the path exists (unless `overwrite`) or its folder does not, when `num_ranks` is below 1,
    and LaunchError when a rank fails.
    """
    path = Path(output_path)
    check_writable(path, overwrite, (".toml",))
    ranks = default_ranks(device) if num_ranks is None else num_ranks
    if ranks < 1:
        raise ValueError(f"num_ranks: must be at least 1, got {ranks}")
    chosen = effort or (GPU if uses_gpu(ranks, device) else NORMAL)
    journal = Journal.beside(path, {
        "machine": machine_words(), "torch": torch_version(), "ranks": ranks, "device": device, "effort": asdict(chosen)
    })  # fmt: skip
    tell = on_progress or (lambda what, fraction: None)
    sampler = Sampler(ranks, chosen, device, launcher, timeout_seconds, journal)
    before = quiet.Probe.now()
    samples = measure(sampler, tell)
    tell("fitting", _KERNELS_SHARE + _MESSAGES_SHARE)
    spec = describe(samples, ranks, doubts=quiet.doubts([before, quiet.Probe.now()]))
    if chosen.num_probe_steps:
        spec = check(spec, sampler, tell)
    write_whole(path, to_toml(spec), overwrite)
    journal.forget()
    tell("done", 1.0)
    return spec


def measure(sampler: Sampler, tell: Progress) -> Samples:
    """All that a calibration measures, kernels first."""
    kernels = sampler.kernels(lambda what, fraction: tell(what, _KERNELS_SHARE * fraction))
    messages = sampler.messages(lambda what, fraction: tell(what, _KERNELS_SHARE + _MESSAGES_SHARE * fraction))
    return Samples(kernels, messages)


def check(spec: ClusterSpec, sampler: Sampler, tell: Progress) -> ClusterSpec:
    """`spec` corrected, if that helps, by small training steps on the ranks of `sampler`: see `probe`."""
    start = _KERNELS_SHARE + _MESSAGES_SHARE
    return probe(
        spec,
        sampler.num_ranks,
        num_steps=sampler.effort.num_probe_steps,
        precision=cast(Precision, sampler.effort.dtypes[0]),
        device=sampler.device,
        launcher=sampler.launcher,
        timeout_seconds=sampler.timeout_seconds,
        origin=Origin(machine_words(), date.today().isoformat(), "training steps of small models"),
        journal=sampler.journal,
        tell=lambda fraction: tell("training steps of small models", start + (1.0 - start) * fraction),
    )


def default_ranks(device: str) -> int:
    """One for each GPU, else for each core, at most 4."""
    gpus = 0 if device == "cpu" else num_gpus()
    return gpus or min(num_cores(), _MOST_RANKS)


def uses_gpu(num_ranks: int, device: str) -> bool:
    """Whether each of `num_ranks` would have a GPU."""
    return device != "cpu" and num_gpus() >= num_ranks


__all__ = ["calibrate", "check", "default_ranks", "measure", "uses_gpu"]
