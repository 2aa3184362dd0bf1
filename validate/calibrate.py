"""Measures this machine: micro-benchmarks on its own ranks, fitted to curves, written as a cluster file.

The file is what `profiles.catalog.cluster` reads. Without a datasheet a CPU's "peaks" are the best rates seen here.
"""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from planner.cost.collectives import COLLECTIVES
from planner.cost.kernels import Rates
from planner.work.ops import Attention
from profiles.accelerator import Accelerator
from profiles.calibration import AttentionCurve, CollectiveCurve, CollectiveOp, GemmCurve, KernelCurves, LinkCurves
from profiles.cluster import ClusterSpec, LinkClass, TierSpec
from profiles.files import check_writable, write_whole
from profiles.units import GIB, KIB, MIB
from profiles.writer import to_toml
from validate.fit import Origin, fit_attention, fit_collective, fit_elementwise, fit_gemm
from validate.launch import Report, launch_local, num_cores

Row = dict[str, Any]
Progress = Callable[[str, float], None]
"""(what is measured now, fraction done)."""

_MOST_RANKS = 4
_TIMEOUT_SECONDS = 600.0
LINKS: dict[str, tuple[str, LinkClass]] = {"cpu": ("gloo-loopback", "host"), "cuda": ("nccl-local", "pcie")}
"""Link and its class by the device that talks over it."""
COLLECTIVE_OPS: tuple[CollectiveOp, ...] = get_args(CollectiveOp)


@dataclass(frozen=True, slots=True)
class Effort:
    """What a calibration measures and how long."""

    seconds_per_kernel: float
    seconds_per_message: float
    patience_seconds: float
    """Most time to spend, a launch, on measuring again what other processes disturbed."""
    gemm: tuple[tuple[int, int, int], ...]
    attention: tuple[tuple[int, int, int, int], ...]
    """(batch, heads, length, head dimension)."""
    elements: tuple[int, ...]
    num_bytes: tuple[int, ...]
    dtypes: tuple[str, ...]


_LINEAR_LAYERS = ((384, 384), (1152, 384), (1536, 384), (384, 1536), (1024, 1024), (4096, 1024), (8192, 384))
"""(outputs, inputs) of layers of small transformers, and the product with a vocabulary."""
NORMAL = Effort(
    seconds_per_kernel=0.12,
    seconds_per_message=0.25,
    patience_seconds=45.0,
    gemm=(
        *((tokens, n, k) for tokens in (64, 256, 512, 1024) for n, k in _LINEAR_LAYERS),
        (128, 128, 128), (2048, 2048, 2048), (16, 1024, 1024), (256, 1024, 4096),
    ),
    attention=((2, 6, 128, 64), (2, 6, 256, 64), (1, 8, 512, 64), (8, 4, 128, 32), (1, 4, 1024, 128), (2, 4, 256, 128)),
    elements=tuple(2**power for power in (14, 16, 17, 18, 19, 20, 21, 22)),
    num_bytes=tuple(int(size) for size in (KIB, 8 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)),
    dtypes=("fp32", "bf16"),
)  # fmt: skip
QUICK = Effort(
    seconds_per_kernel=0.01,
    seconds_per_message=0.02,
    patience_seconds=0.0,
    gemm=((64, 128, 128), (128, 256, 128), (128, 128, 512), (256, 512, 512), (512, 512, 256), (32, 512, 512)),
    attention=((1, 4, 64, 32), (2, 4, 128, 32), (1, 4, 128, 64), (1, 2, 256, 64)),
    elements=tuple(2**power for power in (14, 16, 18, 20)),
    num_bytes=tuple(int(size) for size in (KIB, 16 * KIB, 128 * KIB, MIB)),
    dtypes=("fp32",),
)


def kernel_samples(values: Row, report: Report) -> Row:
    """The body of a kernel launch; imports torch in the rank only."""
    from validate.samples import kernel_samples as run

    return run(values, report)


def collective_samples(values: Row, report: Report) -> Row:
    """The body of a collective launch; imports torch in the rank only."""
    from validate.samples import collective_samples as run

    return run(values, report)


def calibrate(
    output_path: str | os.PathLike[str],
    *,
    num_ranks: int | None = None,
    effort: Effort = NORMAL,
    device: str = "auto",
    overwrite: bool = False,
    on_progress: Progress | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> ClusterSpec:
    """Measure this machine with `num_ranks` ranks (None: one a core, at most 4) and write a cluster file.

    Takes about two minutes at `NORMAL` effort. Each launch may take `timeout_seconds`. The file appears whole or
    not at all. Returns what was written.

    Raises ValueError when the path exists (unless `overwrite`) or its folder does not, when `num_ranks` is below 1,
    and LaunchError when a rank fails.
    """
    path = Path(output_path)
    check_writable(path, overwrite, (".toml",))
    ranks = min(num_cores(), _MOST_RANKS) if num_ranks is None else num_ranks
    if ranks < 1:
        raise ValueError(f"num_ranks: must be at least 1, got {ranks}")
    tell = on_progress or (lambda what, fraction: None)
    kernels = _measure_kernels(ranks, effort, device, tell, timeout_seconds)
    messages = _measure_messages(ranks, effort, device, tell, timeout_seconds)
    tell("fitting", 0.95)
    spec = describe(kernels, messages, ranks)
    write_whole(path, to_toml(spec), overwrite)
    tell("done", 1.0)
    return spec


def _measure_kernels(ranks: int, effort: Effort, device: str, tell: Progress, timeout_seconds: float) -> list[Row]:
    """Results of every rank, which measured the same kernels side by side."""
    values = {
        "device": device, "seconds_per_sample": effort.seconds_per_kernel,
        "patience_seconds": effort.patience_seconds, "gemm": effort.gemm,
        "attention": effort.attention, "elements": effort.elements, "dtypes": effort.dtypes,
    }  # fmt: skip

    def report(phase: str) -> None:
        words = phase.split()
        done = int(words[1]) / int(words[3]) if words[0] == "kernel" else 0.0
        tell(phase, 0.75 * done)

    return launch_local(
        kernel_samples, values, ranks, timeout_seconds=timeout_seconds, oversubscribe=True, on_progress=report
    )


def _measure_messages(
    ranks: int, effort: Effort, device: str, tell: Progress, timeout_seconds: float
) -> list[list[Row]]:
    """For each group size from 2 to `ranks`: the results of every rank."""
    values = {
        "device": device, "seconds_per_sample": effort.seconds_per_message,
        "patience_seconds": effort.patience_seconds, "num_bytes": effort.num_bytes,
    }  # fmt: skip
    launches = []
    for size in range(2, ranks + 1):
        fraction = 0.75 + 0.2 * (size - 2) / (ranks - 1)
        results = launch_local(
            collective_samples, values, size, timeout_seconds=timeout_seconds, oversubscribe=True,
            on_progress=partial(_tell_at, tell, fraction),
        )  # fmt: skip
        launches.append(results)
    return launches


def _tell_at(tell: Progress, fraction: float, phase: str) -> None:
    tell(phase, fraction)


def describe(kernels: Sequence[Row], messages: Sequence[Sequence[Row]], num_ranks: int) -> ClusterSpec:
    """The cluster that the measurements of `calibrate` describe: one tier of `num_ranks` equal devices."""
    device = kernels[0]["device"]
    origin = Origin(_machine(), date.today().isoformat(), "meshwise calibrate on this machine")
    rows = _mean_over_ranks(kernels)
    accelerator = _accelerator(rows, device, kernels[0]["device_name"], num_ranks)
    name = f"{accelerator.name}-x{num_ranks}"
    return ClusterSpec(
        name=name,
        source=f"measured by meshwise calibrate on {origin.machine}, {origin.date}",
        notes=_contention(kernels[0], messages),
        accelerator=accelerator,
        num_devices=num_ranks,
        host_memory_bytes=_memory_bytes(),
        tiers=(_tier(_mean_over_group(messages), device, num_ranks, origin),),
        kernels=_kernel_curves(rows, accelerator, origin),
    )


def _mean_over_ranks(kernels: Sequence[Row]) -> list[Row]:
    """One row a kernel: what a device takes on average while all are busy."""
    return [
        same[0] | {"seconds": statistics.fmean(row["seconds"] for row in same)}
        for same in zip(*(result["rows"] for result in kernels), strict=True)
    ]


def _mean_over_group(messages: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of {"op", "num_ranks", "num_bytes", "seconds"}: what a rank waits on average.

    In a ping-pong only the first and the last rank take part.
    """
    return [
        same[0] | {"num_ranks": len(results), "seconds": _mean_of_active(same)}
        for results in messages
        for same in zip(*(result["rows"] for result in results), strict=True)
    ]


def _mean_of_active(same: Sequence[Row]) -> float:
    active = (same[0], same[-1]) if same[0]["op"] == "send_recv" else same
    return statistics.fmean(row["seconds"] for row in active)


def _contention(kernels: Row, messages: Sequence[Sequence[Row]]) -> str:
    launches = [kernels, *(results[0] for results in messages)]
    left_out, kept = (sum(launch[name] for launch in launches) for name in ("num_left_out", "num_contended"))
    measured = sum(len(launch["rows"]) for launch in launches)
    return (
        f"{measured} measurements; {left_out} were repeated because other processes ran beside them, "
        f"and {kept} were kept although some did"
    )


def _accelerator(rows: Sequence[Row], device: str, device_name: str, num_ranks: int) -> Accelerator:
    peaks: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "gemm":
            rate = 2.0 * row["m"] * row["n"] * row["k"] / row["seconds"]
            peaks[row["dtype"]] = max(rate, peaks.get(row["dtype"], 0.0))
    best = max(row["num_bytes"] / row["seconds"] for row in rows if row["kind"] == "elementwise")
    name = device_name or f"{_processor()} core"
    return Accelerator(
        name="-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()),
        source="best rates that meshwise calibrate measured with all devices busy; not a datasheet",
        vendor=name.split()[0].lower(),
        kind="gpu" if device == "cuda" else "cpu",
        peak_flops_per_second=peaks,
        memory_bytes=_memory_bytes() / num_ranks,
        memory_bytes_per_second=best,
        num_cores=1 if device == "cpu" else None,
    )


def _kernel_curves(rows: Sequence[Row], accelerator: Accelerator, origin: Origin) -> KernelCurves:
    bandwidth = accelerator.memory_bytes_per_second
    dtypes = sorted({row["dtype"] for row in rows if row["kind"] == "gemm"})
    elementwise = [row for row in rows if row["kind"] == "elementwise"]
    updates = [row for row in elementwise if row["kernel"] == "update"]
    others = [row for row in elementwise if row["kernel"] not in ("update", "copy")]
    streams = fit_elementwise(_column(updates, "num_bytes"), _column(updates, "seconds"), bandwidth, origin)
    written = fit_elementwise(_column(others, "num_bytes"), _column(others, "seconds"), bandwidth, origin)
    return KernelCurves(
        name=accelerator.name,
        source=origin.source,
        accelerators=(accelerator.name,),
        gemm={dtype: _gemm_curve(rows, dtype, accelerator, origin) for dtype in dtypes},
        attention={"flash-2": _attention_curve(rows, accelerator, origin)},
        elementwise=written.model_copy(update={"in_place_efficiency_fraction": streams.memory_efficiency_fraction}),
    )


def _gemm_curve(rows: Sequence[Row], dtype: str, accelerator: Accelerator, origin: Origin) -> GemmCurve:
    chosen = [row for row in rows if row["kind"] == "gemm" and row["dtype"] == dtype]
    m, n, k, seconds = (_column(chosen, name) for name in ("m", "n", "k", "seconds"))
    rates = Rates(accelerator.flops_per_second(dtype), accelerator.memory_bytes_per_second)
    return fit_gemm(m, n, k, seconds, rates, dtype, origin)


def _attention_curve(rows: Sequence[Row], accelerator: Accelerator, origin: Origin) -> AttentionCurve:
    """The forward pass is fitted; the backward kernel's rate follows from what both directions take."""
    chosen = [row for row in rows if row["kind"] == "attention"]
    forward, both = ([row for row in chosen if row["direction"] == direction] for direction in ("forward", "both"))
    dtype = str(chosen[0]["dtype"])
    names = {"batch": "batch", "heads": "heads", "kv_heads": "heads", "query_length": "length", "key_length": "length",
             "head_dim": "head_dim", "value_dim": "head_dim"}  # fmt: skip
    operations = Attention(**{field: _column(forward, name) for field, name in names.items()}, dtype=dtype)
    (backward,) = operations.backward()
    seconds = _column(forward, "seconds")
    taken = np.maximum(_column(both, "seconds") - seconds, seconds)
    ratio = float(np.median(backward.passes * seconds / taken))
    rates = Rates(accelerator.flops_per_second(dtype), accelerator.memory_bytes_per_second)
    return fit_attention(operations, seconds, rates, origin, backward_ratio=ratio)


def _tier(messages: Sequence[Row], device: str, num_ranks: int, origin: Origin) -> TierSpec:
    """All ranks over one link, whose nominal rate is the best bus bandwidth that any collective reached."""
    rates = [
        float(COLLECTIVES[row["op"]].wire_bytes(row["num_bytes"], row["num_ranks"], 1.0)) / row["seconds"]
        for row in messages
    ]
    rate = max(rates, default=1.0)
    curves: dict[CollectiveOp, CollectiveCurve] = {}
    for op in COLLECTIVE_OPS:
        chosen = [row for row in messages if row["op"] == op]
        if chosen:
            sizes, num_bytes, seconds = (_column(chosen, name) for name in ("num_ranks", "num_bytes", "seconds"))
            curves[op] = fit_collective(op, sizes, num_bytes, seconds, rate, origin)
    link, link_class = LINKS[device]
    return TierSpec(
        name="host",
        link=link,
        link_class=link_class,
        topology="bus",
        num_devices=num_ranks,
        bytes_per_second=rate,
        latency_seconds=0.0,
        curves=LinkCurves(
            name=link, source=origin.source, links=(link,), link_class=link_class, collectives=curves
        ) if curves else None,
    )  # fmt: skip


def _column(rows: Sequence[Row], name: str) -> Any:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _machine() -> str:
    return f"{_processor()}, {num_cores()} cores, {_memory_bytes() / GIB:.0f} GiB, {platform.system()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
