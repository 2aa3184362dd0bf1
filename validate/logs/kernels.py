"""Traced kernels -> the kernel curves of a known device, each fitted around what the catalog has.

A training step runs few shapes: what they do not tell stays near the catalog's curve, which is the centre of every
prior. Of one shape the median counts, as a step repeats it many times.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.kernels import Rates, kernel_seconds
from planner.work.ops import Attention, Elementwise, Gemm, Kernel
from profiles.calibration import KernelCurves
from profiles.cluster import Cluster
from validate.calibration.fit import Origin, Prior, fit_attention, fit_elementwise, fit_gemm

Row = Mapping[str, Any]
_LOG_SPREAD = 0.2
"""How far the curve of a training step is believed to be from the catalog's."""
_FIXED_LOG_SPREAD = 0.05
"""The same of what a step can hardly tell: exponents and ramps."""
_LEAST_SHAPES = 3
"""Fewer shapes do not make a curve."""
_FREE = ("compute_efficiency_fraction", "memory_efficiency_fraction", "launch_seconds")


@dataclass(frozen=True, slots=True)
class FittedKernels:
    """What the shapes of one kind of kernel say."""

    name: str
    num_shapes: int
    error_before_fraction: float
    """Median |predicted / measured - 1| by the catalog's curve."""
    error_after_fraction: float
    """The same by the new one."""


def fit_kernels(rows: Sequence[Row], cluster: Cluster, origin: Origin) -> tuple[KernelCurves, list[FittedKernels]]:
    """The curves of `cluster` with those that `rows` tell of fitted again; kinds of too few shapes stay."""
    curves, device, fitted = cluster.kernels, cluster.accelerator, []
    shapes = _shapes(rows)
    for dtype in dict.fromkeys(str(row["dtype"]) for row in shapes if row["kind"] == "gemm"):
        chosen = [row for row in shapes if row["kind"] == "gemm" and row["dtype"] == dtype]
        if len(chosen) < _LEAST_SHAPES or dtype not in device.peak_flops_per_second:
            continue
        old = curves.gemm_curve(dtype)
        rates = Rates.of(cluster, dtype)
        m, n, k, seconds = (_column(chosen, name) for name in ("m", "n", "k", "seconds"))
        new = fit_gemm(
            m, n, k, seconds, rates, dtype, origin, misaligned_factor=old.misaligned_factor,
            misaligned_batched_factor=old.misaligned_batched_factor, priors=_around(old),
        )  # fmt: skip
        curves = curves.model_copy(update={"gemm": curves.gemm | {dtype: new}})
        op = Gemm(m, n, k, dtype=dtype)
        fitted.append(_compared(f"matmul {dtype}", op, chosen, cluster, curves))
    curves = _fit_attention(shapes, cluster, curves, origin, fitted)
    return _fit_streams(shapes, cluster, curves, origin, fitted), fitted


def _shapes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a shape, with the median of its times."""
    groups: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    for row in rows:
        key = tuple(sorted((name, value) for name, value in row.items() if name != "seconds"))
        groups.setdefault(key, []).append(float(row["seconds"]))
    return [dict(key) | {"seconds": statistics.median(seconds)} for key, seconds in groups.items()]


def _fit_attention(
    shapes: Sequence[Row], cluster: Cluster, curves: KernelCurves, origin: Origin, fitted: list[FittedKernels]
) -> KernelCurves:
    """Forward kernels are fitted; of backward ones the ratio of rates."""
    attention = [row for row in shapes if row["kind"] == "attention" and row["causal"]]
    forward = [row for row in attention if row["direction"] == "forward"]
    if not forward or str(forward[0]["dtype"]) not in cluster.accelerator.peak_flops_per_second:
        return curves
    kernel, dtype = "flash-2", str(forward[0]["dtype"])
    forward = [row for row in forward if row["dtype"] == dtype]
    old = curves.attention_curve(kernel)
    backward = [
        row for row in shapes if row["kind"] == "attention" and row["direction"] == "backward" and row["causal"]
    ]
    op = _attention(forward, dtype)
    rates = Rates.of(cluster, dtype, attention=True)
    ratio = _backward_ratio(backward, dtype, cluster, old.backward_ratio)
    new = fit_attention(op, _column(forward, "seconds"), rates, origin, backward_ratio=ratio, priors=_around(old))
    curves = curves.model_copy(update={"attention": curves.attention | {kernel: new}})
    fitted.append(_compared("attention", op, forward, cluster, curves))
    return curves


def _backward_ratio(rows: Sequence[Row], dtype: str, cluster: Cluster, known: float) -> float:
    """FLOP/s of the backward kernels over those of the forward, as much as the rows differ from their prices."""
    rows = [row for row in rows if row["dtype"] == dtype]
    if not rows:
        return known
    (op,) = _attention(rows, dtype).backward()
    return known * float(np.median(kernel_seconds(op, cluster) / _column(rows, "seconds")))


def _attention(rows: Sequence[Row], dtype: str) -> Attention:
    names = ("batch", "heads", "kv_heads", "query_length", "key_length", "head_dim", "value_dim")
    return Attention(**{name: _column(rows, name) for name in names}, dtype=dtype)


def _fit_streams(
    shapes: Sequence[Row], cluster: Cluster, curves: KernelCurves, origin: Origin, fitted: list[FittedKernels]
) -> KernelCurves:
    """Kernels that write elsewhere make the curve; those that update in place its rate for them, where it has one."""
    rate, own = cluster.accelerator.memory_bytes_per_second, curves.elementwise.in_place_efficiency_fraction
    streams = [row for row in shapes if row["kind"] == "elementwise"]
    updates = [row for row in streams if row["in_place"] and own is not None]
    written = [row for row in streams if row not in updates]
    changes: dict[str, Any] = {}
    for name, chosen in (("element-wise", written), ("updates in place", updates)):
        if len(chosen) < _LEAST_SHAPES:
            continue
        num_bytes, seconds = (_column(chosen, column) for column in ("num_bytes", "seconds"))
        new = fit_elementwise(num_bytes, seconds, rate, origin, priors=_around(curves.elementwise))
        if chosen is written:
            changes |= {"memory_efficiency_fraction": new.memory_efficiency_fraction,
                        "launch_seconds": new.launch_seconds, "fit": new.fit}  # fmt: skip
        else:
            changes["in_place_efficiency_fraction"] = new.memory_efficiency_fraction
        mine = curves.model_copy(update={"elementwise": curves.elementwise.model_copy(update=changes)})
        fitted.append(_compared(name, Elementwise(num_bytes, in_place=chosen is updates), chosen, cluster, mine))
    return curves.model_copy(update={"elementwise": curves.elementwise.model_copy(update=changes)})


def _around(curve: Any) -> dict[str, Prior]:
    """Priors at the values of a curve that is known."""
    values = {
        name: float(value)
        for name, value in curve.model_dump().items()
        if isinstance(value, float) and name not in ("backward_ratio", "misaligned_factor", "misaligned_batched_factor",
                                                     "in_place_efficiency_fraction")
    }  # fmt: skip
    return {
        name: Prior(max(value, _LEAST_VALUE), _LOG_SPREAD if name in _FREE else _FIXED_LOG_SPREAD)
        for name, value in values.items()
    }


_LEAST_VALUE = 1e-9
"""Logs of priors need a value, also where a curve says none."""


def _compared(name: str, op: Kernel, rows: Sequence[Row], cluster: Cluster, curves: KernelCurves) -> FittedKernels:
    seconds = _column(rows, "seconds")
    mine = cluster.model_copy(update={"kernels": curves})
    before, after = (float(np.median(np.abs(kernel_seconds(op, one) / seconds - 1.0))) for one in (cluster, mine))
    return FittedKernels(name, len(rows), before, after)


def _column(rows: Sequence[Row], name: str) -> Any:
    return np.array([row[name] for row in rows], dtype=np.float64)


__all__ = ["FittedKernels", "fit_kernels"]
