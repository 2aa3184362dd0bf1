"""Kernels of devices or formats on which no library was measured: priced by the curves that training plans use."""

from dataclasses import replace
from typing import Any

from planner.cost.kernels import kernel_seconds
from planner.work.ops import Attention, DecodeAttention, Elementwise, Gemm
from profiles.cluster import Cluster

PLAIN_ERROR_FRACTION = 1.0
"""The error taken of such prices, a factor of two: of the kernels of libraries that were measured, nine of ten lie
within 0.64 (products) to 1.1 (attention of one token) of them (docs/calibration.md)."""


def plain_seconds(op: Any, cluster: Cluster, reason: ValueError) -> Any:
    """Seconds of `op` by the curves of training on a device of `cluster`.

    Raises `reason`, why its library has none, where training has no such kernel, and ValueError for a format that the
    device has no peak for.
    """
    if isinstance(op, Gemm | Attention | Elementwise):
        return kernel_seconds(replace(op, library=""), cluster)
    if isinstance(op, DecodeAttention):
        return kernel_seconds(_one_query(op), cluster)
    raise reason


def _one_query(op: DecodeAttention) -> Attention:
    """A token's attention as that of a sequence of one query over all its keys."""
    return Attention(
        op.batch, op.heads, op.kv_heads, 1.0, op.num_keys, op.head_dim, op.value_dim, causal=False, dtype=op.dtype,
        num_launches=op.num_launches,
    )  # fmt: skip
