"""Rows of micro-benchmarks -> the cluster they describe: rates, and fitted curves with their held-out errors."""

import statistics
from collections.abc import Sequence
from datetime import date
from typing import Any, get_args

import numpy as np

from planner.cost.collectives import COLLECTIVES
from planner.cost.kernels import Rates
from planner.work.ops import Attention
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.calibration import AttentionCurve, CollectiveCurve, CollectiveOp, GemmCurve, KernelCurves, LinkCurves
from profiles.cluster import ClusterSpec, LinkClass, TierSpec
from profiles.units import MICRO
from validate.calibration.fit import Origin, fit_attention, fit_collective, fit_elementwise, fit_gemm
from validate.calibration.fit_sizes import curve_seconds, joined, with_size_factors
from validate.calibration.machine import host_memory_bytes, machine_words, processor
from validate.calibration.sampling import Samples
from validate.logs.devices import without_maker

Row = dict[str, Any]
LINKS: dict[str, tuple[str, LinkClass]] = {"cpu": ("gloo-loopback", "host"), "cuda": ("nccl-local", "pcie")}
"""Link and its class by the device that talks over it."""
STREAMING = ("add", "copy", "update")
"""Kernels that do nothing but move bytes: their best rate is the memory's."""
COLLECTIVE_OPS: tuple[CollectiveOp, ...] = get_args(CollectiveOp)


def describe(samples: Samples, num_ranks: int, *, doubts: Sequence[str] = ()) -> ClusterSpec:
    """The cluster that the measurements of `calibrate` describe: one tier of `num_ranks` equal devices.

    Its notes say how quiet the machine was, with the `doubts` of `validate.calibration.quiet`.
    """
    first = samples.launches[0][0]
    made_by = f"meshwise calibrate on this machine, torch {first['torch']}"
    origin = Origin(machine_words(), date.today().isoformat(), made_by)
    rows = [row for launch in samples.kernels for row in _mean_over_ranks(launch)]
    accelerator = _accelerator(rows, first, num_ranks)
    return ClusterSpec(
        name=f"{accelerator.name}-x{num_ranks}",
        source=f"measured by {made_by}: {origin.machine}, {origin.date}",
        notes="; ".join([_contention(samples), *doubts, _launch_words(rows)]),
        accelerator=accelerator,
        num_devices=num_ranks,
        host_memory_bytes=host_memory_bytes(),
        tiers=(_tier(_mean_over_group(samples.messages), first["device"], num_ranks, origin),),
        kernels=_kernel_curves(rows, accelerator, origin),
    )


def _mean_over_ranks(results: Sequence[Row]) -> list[Row]:
    """One row a kernel or message: what a rank takes on average while all are busy."""
    return [
        same[0] | {"seconds": statistics.fmean(row["seconds"] for row in same)}
        for same in zip(*(result["rows"] for result in results), strict=True)
    ]


def _mean_over_group(messages: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of {"op", "num_ranks", "num_bytes", "seconds"}: what a rank waits on average."""
    return [row | {"num_ranks": len(results)} for results in messages for row in _mean_over_ranks(results)]


def _contention(samples: Samples) -> str:
    firsts = [launch[0] for launch in samples.launches]
    left_out, kept = (sum(first[name] for first in firsts) for name in ("num_left_out", "num_contended"))
    measured = sum(len(first["rows"]) for first in firsts)
    return (
        f"{measured} measurements; {left_out} were repeated because other processes ran beside them, "
        f"and {kept} were kept although some did"
    )


def _launch_words(rows: Sequence[Row]) -> str:
    """What the host takes to launch an operation: on CPUs part of every kernel's time, else a floor of the stack."""
    seconds = next(row["seconds"] for row in rows if row["kind"] == "launch")
    return f"launching an operation takes the host {seconds / MICRO:.1f} us"


def _accelerator(rows: Sequence[Row], first: Row, num_ranks: int) -> Accelerator:
    """The catalog's record of a known GPU, with the rate to its host; else the best rates seen here."""
    copies = [row["num_bytes"] / row["seconds"] for row in rows if row["kind"] == "host_copy"]
    known = _catalogued(first["device_name"])
    if known is not None:
        return known.model_copy(update={"host_bytes_per_second": min(copies)} if copies else {})
    peaks: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "gemm":
            rate = 2.0 * row["m"] * row["n"] * row["k"] / row["seconds"]
            peaks[row["dtype"]] = max(rate, peaks.get(row["dtype"], 0.0))
    streams = [row for row in rows if row["kind"] == "elementwise" and row["kernel"] in STREAMING]
    name = first["device_name"] or f"{processor()} core"
    return Accelerator(
        name="-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()),
        source="best rates that meshwise calibrate measured with all devices busy; not a datasheet",
        vendor=name.split()[0].lower(),
        kind="gpu" if first["device"] == "cuda" else "cpu",
        peak_flops_per_second=peaks,
        memory_bytes=first["device_bytes"] or host_memory_bytes() / num_ranks,
        memory_bytes_per_second=max(row["num_bytes"] / row["seconds"] for row in streams),
        host_bytes_per_second=min(copies) if copies else None,
        num_cores=1 if first["device"] == "cpu" else None,
    )


def _catalogued(device_name: str) -> Accelerator | None:
    """The datasheet of the GPU that calls itself so, where the catalog has it."""
    try:
        return catalog.accelerator(without_maker(device_name)) if device_name else None
    except catalog.UnknownName:
        return None


def _kernel_curves(rows: Sequence[Row], accelerator: Accelerator, origin: Origin) -> KernelCurves:
    bandwidth = accelerator.memory_bytes_per_second
    dtypes = sorted({row["dtype"] for row in rows if row["kind"] == "gemm"})
    elementwise = [row for row in rows if row["kind"] == "elementwise"]
    in_place = [row for row in elementwise if row["kernel"] == "update"]
    updates = [*in_place, *(row for row in rows if row["kind"] == "update")]
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
        groups = dict.fromkeys(row["num_ranks"] for row in messages if row["op"] == op)
        chosen = [[row for row in messages if row["op"] == op and row["num_ranks"] == size] for size in groups]
        if chosen:
            curves[op] = joined([_group_curve(op, rows, rate, origin) for rows in chosen])
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


def _group_curve(op: CollectiveOp, rows: Sequence[Row], rate: float, origin: Origin) -> CollectiveCurve:
    """The curve of one collective over one group size, with factors by size where these help."""
    sizes, num_bytes, seconds = (_column(rows, name) for name in ("num_ranks", "num_bytes", "seconds"))
    wire_bytes = COLLECTIVES[op].wire_bytes(num_bytes, sizes, 1.0)
    smooth = fit_collective(op, sizes, num_bytes, seconds, rate, origin)
    return with_size_factors(smooth, wire_bytes, seconds, lambda curve: curve_seconds(curve, wire_bytes, rate))


def _column(rows: Sequence[Row], name: str) -> Any:
    return np.array([row[name] for row in rows], dtype=np.float64)
