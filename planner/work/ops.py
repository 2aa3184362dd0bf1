"""The operations a rank runs: compute kernels and messages. Fields are floats or arrays that broadcast.

An operation says how much there is to do; `planner.cost.kernels` and `planner.cost.collectives` say how long
it takes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profiles.units import DTYPE_BYTES

Numbers = Any
"""A float or a float64 array of one value a plan."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """`batch` products C[m, n] = A[m, k] B[k, n], run in one launch."""

    m: Numbers
    n: Numbers
    k: Numbers
    batch: Numbers = 1.0
    dtype: str = "bf16"
    num_launches: Numbers = 1.0
    extra_bytes: Numbers = 0.0
    """Traffic of each product beside its three matrices, as of adding to an fp32 gradient."""

    @property
    def flops(self) -> Numbers:
        """2 m n k a product."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def num_bytes(self) -> Numbers:
        """Each matrix moved once, and the extra bytes."""
        elements = self.m * self.k + self.k * self.n + self.m * self.n
        return self.batch * (DTYPE_BYTES[self.dtype] * elements + self.extra_bytes)

    def backward(self) -> tuple["Gemm", "Gemm"]:
        """The data gradient dA = dC B' and the weight gradient dB = A' dC."""
        return replace(self, n=self.k, k=self.n), replace(self, m=self.k, k=self.m)


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """Products of `experts` weight matrices [k, n] with the rows routed to each, run in one launch.

    `rows` are all rows on this rank (tokens times experts a token, the busiest rank's where routing is uneven); how
    they are dealt to the rank's experts hardly matters, since one launch computes all.
    """

    rows: Numbers
    n: Numbers
    k: Numbers
    experts: Numbers
    dtype: str = "bf16"
    num_launches: Numbers = 1.0
    extra_bytes: Numbers = 0.0
    """Traffic for each expert beside its matrices, as of adding to an fp32 gradient."""

    @property
    def flops(self) -> Numbers:
        """2 rows n k."""
        return 2.0 * self.rows * self.n * self.k

    @property
    def active_experts(self) -> Numbers:
        """Experts that at least one row reaches, of rows routed independently: E (1 - exp(-rows / E))."""
        return -self.experts * np.expm1(-self.rows / self.experts)

    @property
    def num_bytes(self) -> Numbers:
        """Rows in and out moved once, and the weights (and extra bytes) of the experts that are reached."""
        width = DTYPE_BYTES[self.dtype]
        expert_bytes = width * self.n * self.k + self.extra_bytes
        return width * self.rows * (self.n + self.k) + self.active_experts * expert_bytes

    def backward(self) -> tuple["GroupedGemm", "GroupedGemm"]:
        """The data gradient, and the weight gradient: as many FLOPs, which writes what the forward pass read."""
        return replace(self, n=self.k, k=self.n), self


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused softmax attention over `batch` sequences of `heads` heads on this rank."""

    batch: Numbers
    heads: Numbers
    kv_heads: Numbers
    query_length: Numbers
    key_length: Numbers
    head_dim: Numbers
    value_dim: Numbers
    causal: bool = True
    kernel: str = "flash-2"
    dtype: str = "bf16"
    passes: float = 1.0
    """Times the forward FLOPs: 1 forward; 2.5 backward (five products for two, with the scores again)."""
    num_launches: Numbers = 1.0

    @property
    def flops(self) -> Numbers:
        """QK' and PV, half of them under a causal mask."""
        pairs = self.query_length * self.key_length * (0.5 if self.causal else 1.0)
        return 2.0 * self.passes * self.batch * self.heads * pairs * (self.head_dim + self.value_dim)

    @property
    def num_bytes(self) -> Numbers:
        """Queries, keys, values and outputs moved once a pass."""
        queries = self.query_length * self.heads * (self.head_dim + self.value_dim)
        keys = self.key_length * self.kv_heads * (self.head_dim + self.value_dim)
        return DTYPE_BYTES[self.dtype] * self.passes * self.batch * (queries + keys)

    def backward(self) -> tuple["Attention", ...]:
        """One fused backward kernel of 2.5 times the forward FLOPs (Dao 2022, arXiv:2205.14135)."""
        return (replace(self, passes=2.5 * self.passes),)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Memory-bound kernels: norms, activations, dropout, residual adds, softmax in memory, optimizer updates."""

    num_bytes: Numbers
    backward_bytes: Numbers = 0.0
    num_launches: Numbers = 1.0
    backward_launches: Numbers = 1.0
    flops: float = 0.0
    in_place: bool = False
    """Updates a buffer where it lies (optimizer, gradient accumulation) in place of writing a new one."""
    rate_fraction: float = 1.0
    """Share of the rate of a streaming kernel that the stack's kernel reaches."""

    def backward(self) -> tuple["Elementwise", ...]:
        """The traffic of the backward pass."""
        return (replace(self, num_bytes=self.backward_bytes, num_launches=self.backward_launches),)


@dataclass(frozen=True, slots=True)
class Listed:
    """A kernel known only by its FLOPs and bytes (a layer of a plain layer list)."""

    flops: Numbers
    num_bytes: Numbers
    dtype: str = "bf16"
    num_launches: Numbers = 1.0

    def backward(self) -> tuple["Listed", ...]:
        """Twice the work: data and weight gradients."""
        return (replace(self, flops=2.0 * self.flops, num_bytes=2.0 * self.num_bytes, num_launches=2.0),)


Kernel = Gemm | GroupedGemm | Attention | Elementwise | Listed


@dataclass(frozen=True, slots=True)
class Message:
    """One collective or transfer on a parallel axis, in nccl-tests sizes.

    `num_bytes`: all_reduce the buffer; all_gather the gathered output; reduce_scatter the full input;
    all_to_all the send buffer of a rank; send_recv the transfer.
    """

    axis: str
    collective: str
    num_bytes: Numbers
    exposed_fraction: float = 1.0
    """Share of it that a stack leaves uncovered by compute."""
    beside: Kernel | None = None
    """The kernel that runs while it travels; only what outlasts it is waited for."""


Op = Kernel | Message
