"""Seconds of compute kernels: smooth rooflines with the fitted curves of the cluster's accelerator.

Smooth rooflines [Williams 2009, doi:10.1145/1498765.1498785] with constants of `profiles.calibration` records.
Every function broadcasts over the fields of its operation. Launch constants are device time; what the host
needs to launch is priced where the stack is known.
"""

from functools import singledispatch

import numpy as np

from planner.cost.libraries import (
    library_decode_seconds,
    library_expert_seconds,
    library_gemm_seconds,
    library_prefill_seconds,
    library_stream_seconds,
)
from planner.cost.roofline import Rates, Seconds, smooth_max
from planner.work.ops import (
    Attention,
    DecodeAttention,
    Elementwise,
    ExpertLayer,
    Gemm,
    GroupedGemm,
    HostCopy,
    HostOp,
    HostUpdate,
    Kernel,
    Listed,
)  # fmt: skip
from profiles.calibration import AttentionCurve, ElementwiseCurve, GemmCurve, GroupedGemmCurve
from profiles.cluster import Cluster

_ALIGNMENT = 8
"""Elements of a 16-bit format in one 16-byte load, which fast kernels need of the contiguous dimensions."""
_SPLIT_INNER = 4096.0
_INNER_UNIT = 1024.0
"""Libraries split inner dimensions beyond `_SPLIT_INNER`; `inner_seconds` counts per `_INNER_UNIT`."""


@singledispatch
def kernel_seconds(op: Kernel | HostOp, cluster: Cluster) -> Seconds:
    """Device seconds of one run of `op` on one accelerator of `cluster`; its fields broadcast.

    Raises ValueError when the accelerator has no peak for the operation's dtype.
    """
    raise AssertionError(f"no price for {type(op).__name__}")


@kernel_seconds.register
def _host_copy(op: HostCopy, cluster: Cluster) -> Seconds:
    rate = cluster.accelerator.host_bytes_per_second
    if rate is None:
        raise ValueError(f"offload: the rate between {cluster.accelerator.name} and its host is not known")
    return op.num_bytes / (op.efficiency_fraction * rate)


@kernel_seconds.register
def _host_update(op: HostUpdate, cluster: Cluster) -> Seconds:
    sharing = min(cluster.devices_per_node, cluster.num_devices)
    return op.num_parameters * op.seconds_per_parameter * sharing


@kernel_seconds.register
def _gemm(op: Gemm, cluster: Cluster) -> Seconds:
    if op.library:
        return library_gemm_seconds(op, cluster.accelerator)
    return gemm_seconds(op, cluster.kernels.gemm_curve(op.dtype), Rates.of(cluster, op.dtype))


@kernel_seconds.register
def _grouped_gemm(op: GroupedGemm, cluster: Cluster) -> Seconds:
    return grouped_gemm_seconds(op, cluster.kernels.grouped_gemm_curve(op.dtype), Rates.of(cluster, op.dtype))


@kernel_seconds.register
def _attention(op: Attention, cluster: Cluster) -> Seconds:
    if op.library:
        return library_prefill_seconds(op, cluster.accelerator)
    return attention_seconds(
        op, cluster.kernels.attention_curve(op.kernel), Rates.of(cluster, op.dtype, attention=True)
    )


@kernel_seconds.register
def _decode_attention(op: DecodeAttention, cluster: Cluster) -> Seconds:
    return library_decode_seconds(op, cluster.accelerator)


@kernel_seconds.register
def _expert_layer(op: ExpertLayer, cluster: Cluster) -> Seconds:
    return library_expert_seconds(op, cluster.accelerator)


@kernel_seconds.register
def _elementwise(op: Elementwise, cluster: Cluster) -> Seconds:
    if op.library:
        return library_stream_seconds(op, cluster.accelerator)
    rate = cluster.accelerator.memory_bytes_per_second
    return elementwise_seconds(op, cluster.kernels.elementwise, rate)


@kernel_seconds.register
def _listed(op: Listed, cluster: Cluster) -> Seconds:
    return listed_seconds(op, cluster.kernels.gemm_curve(op.dtype), Rates.of(cluster, op.dtype))


def gemm_seconds(op: Gemm, curve: GemmCurve, rates: Rates) -> Seconds:
    """t = (c**p + m**p)**(1/p) + launches * t0 + t_k * min(k, 4096) / 1024, of all `batch` products together.

    c = F / (e_c * peak), times the misalignment factor (of single or batched products) where n or k is no
    multiple of 8; m = bytes / (e_m * bandwidth). The smooth maximum of a roofline [Williams 2009,
    doi:10.1145/1498765.1498785] with a launch constant and the latency of the serial loop over k; one-tile wave
    quantisation fits worse than none, and an efficiency that depends on m, n or both is no better on unseen
    shapes (docs/calibration.md).
    """
    aligned = (np.mod(op.n, _ALIGNMENT) == 0) & (np.mod(op.k, _ALIGNMENT) == 0)
    misaligned = np.where(np.greater(op.batch, 1), curve.misaligned_batched_factor, curve.misaligned_factor)
    slowdown = np.where(aligned, 1.0, misaligned)
    peak = curve.compute_efficiency_fraction * rates.flops_per_second
    bandwidth = curve.memory_efficiency_fraction * rates.memory_bytes_per_second
    roofline = smooth_max(slowdown * op.flops / peak, op.num_bytes / bandwidth, curve.exponent)
    inner = curve.inner_seconds * np.minimum(op.k, _SPLIT_INNER) / _INNER_UNIT
    return roofline + op.num_launches * curve.launch_seconds + inner


def grouped_gemm_seconds(op: GroupedGemm, curve: GroupedGemmCurve, rates: Rates) -> Seconds:
    """t = (c**p + m**p)**(1/p) + launches * t0, a smooth roofline [Williams 2009] over all experts together.

    c = 2 n k (rows + tile / 2 * active experts) / (e_c * peak): tiles of `num_tile_rows` rows serve one expert each,
    and the last of every expert is half empty in the mean [Gale 2022, MegaBlocks, arXiv:2211.15841, section 3];
    m = bytes / (e_m * bandwidth).
    """
    padded_rows = op.rows + 0.5 * curve.num_tile_rows * op.active_experts
    compute = 2.0 * op.n * op.k * padded_rows / (curve.compute_efficiency_fraction * rates.flops_per_second)
    memory = op.num_bytes / (curve.memory_efficiency_fraction * rates.memory_bytes_per_second)
    return smooth_max(compute, memory, curve.exponent) + op.num_launches * curve.launch_seconds


def attention_seconds(op: Attention, curve: AttentionCurve, rates: Rates) -> Seconds:
    """t = F / (e * peak) * (1 + s_half / s) * (1 + d_half / d) + bytes / (e_m * bandwidth) + launches * t0.

    s is the key length and d the smaller of the head and value dimensions (192 by 128 runs no faster than 128 by 128:
    B200, MooreThreads/SimuMax@4dcaae513b configs/system/b200_bf16_ceperm.json). The terms add because softmax and
    loads overlap little with the matrix products [Dao 2023, arXiv:2307.08691, section 3]; a smooth maximum
    fits worse. Backward passes (`passes` above 1) run at `backward_ratio` of the forward FLOP/s.
    """
    peak = curve.compute_efficiency_fraction * rates.flops_per_second
    bandwidth = curve.memory_efficiency_fraction * rates.memory_bytes_per_second
    dim = np.minimum(op.head_dim, op.value_dim)
    ramp = (1.0 + curve.half_length / op.key_length) * (1.0 + curve.half_dim / dim)
    rate = peak * np.where(np.greater(op.passes, 1.0), curve.backward_ratio, 1.0)
    return op.flops / rate * ramp + op.num_bytes / bandwidth + op.num_launches * curve.launch_seconds


def elementwise_seconds(op: Elementwise, curve: ElementwiseCurve, memory_bytes_per_second: float) -> Seconds:
    """t = bytes / (r * e * bandwidth) + launches * t0: the memory side of a roofline [Williams 2009].

    e is that of streaming kernels, or of updates in place where the curve states one; r the operation's
    `rate_fraction` of it.
    """
    in_place = curve.in_place_efficiency_fraction if op.in_place else None
    bandwidth = op.rate_fraction * (in_place or curve.memory_efficiency_fraction) * memory_bytes_per_second
    return op.num_bytes / bandwidth + op.num_launches * curve.launch_seconds


def listed_seconds(op: Listed, curve: GemmCurve, rates: Rates) -> Seconds:
    """t = (c**p + m**p)**(1/p) + launches * t0, a smooth roofline [Williams 2009] at GEMM efficiencies.

    Only FLOPs and bytes of a listed layer are known; convolutions and GEMMs share the matrix units.
    """
    peak = curve.compute_efficiency_fraction * rates.flops_per_second
    bandwidth = curve.memory_efficiency_fraction * rates.memory_bytes_per_second
    roofline = smooth_max(op.flops / peak, op.num_bytes / bandwidth, curve.exponent)
    return roofline + op.num_launches * curve.launch_seconds
