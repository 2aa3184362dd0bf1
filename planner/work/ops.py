"""The operations a rank runs: compute kernels and messages. Fields are floats or arrays that broadcast.

An operation says how much there is to do; `planner.cost.kernels` and `planner.cost.collectives` say how long
it takes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.work.forms import OUTPUT_BYTES, form_of
from planner.work.routing import Routing
from profiles.units import DTYPE_BYTES

Numbers = Any
"""A float or a float64 array of one value a plan."""
_SKEWED_SPREAD = 0.6
"""Rows routed by a power law reach about as many experts as this share of them routed evenly."""


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
    library: str = ""
    """Whose kernel: "trtllm", "sglang", "vllm", "torch" (`profiles.libraries`); "": the accelerator's own curve."""
    form: str = ""
    """How a library's kernel stores its operands (`planner.work.forms`); "": as `dtype`."""
    cached_fraction: Numbers = 0.0
    """Share of the weights B that the cache holds already, as when a benchmark repeats one product."""

    @property
    def flops(self) -> Numbers:
        """2 m n k a product."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def num_bytes(self) -> Numbers:
        """Each matrix moved once, and the extra bytes."""
        if self.form:
            form = form_of(self.form)
            held = form.activation_bytes * self.m * self.k + form.weight_bytes * self.k * self.n
            return self.batch * (held + OUTPUT_BYTES * self.m * self.n + self.extra_bytes)
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
class ExpertLayer:
    """Routing, both products and the activation of a mixture of experts, by a library's fused kernels."""

    tokens: Numbers
    rows: Numbers
    """Rows that reach this rank's experts: tokens times experts a token, over the ranks that share them."""
    hidden: Numbers
    width: Numbers
    """Of one expert on this rank."""
    experts: Numbers
    """On this rank."""
    library: str
    form: str = "bf16"
    num_matrices: Numbers = 3.0
    """3 with a gate, 2 without."""
    skew: Numbers = 0.0
    """Exponent of the power law by which experts are chosen; 0: all alike."""
    num_launches: Numbers = 1.0

    @property
    def dtype(self) -> str:
        """Format the matrix units multiply in."""
        return form_of(self.form).dtype

    @property
    def active_experts(self) -> Numbers:
        """Experts that at least one row reaches: E (1 - exp(-rows / E)); of a power law about as many as 0.6 rows."""
        spread = np.where(np.greater(self.skew, 0.0), _SKEWED_SPREAD, 1.0)
        return -self.experts * np.expm1(-spread * self.rows / self.experts)

    @property
    def flops(self) -> Numbers:
        """2 rows hidden width a matrix."""
        return 2.0 * self.num_matrices * self.rows * self.hidden * self.width

    @property
    def product_bytes(self) -> Numbers:
        """Weights of the experts that are reached, and their rows in and out."""
        form = form_of(self.form)
        weights = self.num_matrices * form.weight_bytes * self.active_experts * self.hidden * self.width
        return weights + form.activation_bytes * self.rows * (self.hidden + self.num_matrices * self.width)

    @property
    def traffic_bytes(self) -> Numbers:
        """Gathering rows, the activation and the weighted sum, in 16 bits."""
        return OUTPUT_BYTES * (2.0 * self.rows * (self.hidden + self.width) + 2.0 * self.tokens * self.hidden)

    @property
    def num_bytes(self) -> Numbers:
        """All of it."""
        return self.product_bytes + self.traffic_bytes

    def backward(self) -> tuple["ExpertLayer", ...]:
        """Nothing: serving engines' kernels have no gradient."""
        return ()


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused softmax attention over `batch` sequences of `heads` heads on this rank.

    `key_length` counts every key a sequence has; under a causal mask the queries are its last tokens where a past is
    stated, and all rows of a mean triangle where not (a rank of a ring sees half the pairs of every block).
    """

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
    past_length: Numbers = 0.0
    """Keys before the first query (earlier chunks of a prompt), part of `key_length`."""
    window_length: Numbers = None
    """Keys that a query sees at most, its own among them (sliding-window attention); None: all."""
    library: str = ""
    """Whose kernel (`profiles.libraries`); "": the curve of the family `kernel` on the accelerator."""
    kv_dtype: str = ""
    """Format of cached keys and values of a library's kernel; "": as `dtype`."""

    @property
    def num_pairs(self) -> Numbers:
        """Pairs of a query and a key that count: half of a square under a causal mask, all of its past."""
        own = self.key_length - self.past_length
        if self.window_length is None:
            return self.query_length * (self.past_length + own * (0.5 if self.causal else 1.0))
        window = np.minimum(self.window_length, self.key_length)
        if not self.causal:
            return self.query_length * window
        growing = np.clip(window - self.past_length, 0.0, self.query_length)  # queries whose window is not yet full
        return growing * (self.past_length + 0.5 * growing) + (self.query_length - growing) * window

    @property
    def flops(self) -> Numbers:
        """QK' and PV of the pairs that count."""
        return 2.0 * self.passes * self.batch * self.heads * self.num_pairs * (self.head_dim + self.value_dim)

    @property
    def num_bytes(self) -> Numbers:
        """Queries, keys, values and outputs moved once a pass."""
        queries = self.query_length * self.heads * (self.head_dim + self.value_dim)
        keys = self.key_length * self.kv_heads * (self.head_dim + self.value_dim)
        width = DTYPE_BYTES[self.dtype]
        return self.passes * self.batch * (width * queries + DTYPE_BYTES[self.kv_dtype or self.dtype] * keys)

    def backward(self) -> tuple["Attention", ...]:
        """One fused backward kernel of 2.5 times the forward FLOPs (Dao 2022, arXiv:2205.14135)."""
        return (replace(self, passes=2.5 * self.passes),)


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Attention of one new token a sequence over its cached context, by a library's kernel."""

    batch: Numbers
    heads: Numbers
    kv_heads: Numbers
    context_length: Numbers
    """Keys and values read a sequence, the new token's included."""
    head_dim: Numbers
    value_dim: Numbers
    library: str
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    window_length: Numbers = None
    """Keys read at most (sliding-window attention); None: all."""
    num_launches: Numbers = 1.0

    @property
    def num_keys(self) -> Numbers:
        """Keys read a sequence."""
        return (
            self.context_length if self.window_length is None else np.minimum(self.context_length, self.window_length)
        )

    @property
    def kv_bytes(self) -> Numbers:
        """Keys and values read."""
        elements = self.batch * self.num_keys * self.kv_heads * (self.head_dim + self.value_dim)
        return DTYPE_BYTES[self.kv_dtype] * elements

    @property
    def num_bytes(self) -> Numbers:
        """Keys and values, queries and outputs, moved once."""
        return self.kv_bytes + DTYPE_BYTES[self.dtype] * self.batch * self.heads * (self.head_dim + self.value_dim)

    @property
    def flops(self) -> Numbers:
        """QK' and PV."""
        return 2.0 * self.batch * self.heads * self.num_keys * (self.head_dim + self.value_dim)

    def backward(self) -> tuple["DecodeAttention", ...]:
        """Nothing: no gradient passes through a cache."""
        return ()


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
    library: str = ""
    """Whose kernel (`profiles.libraries`); "": a plain stream of the device."""
    kernel: str = ""
    """Name of a library's kernel, as "input_layernorm"."""
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
        """The data gradient and the weight gradient, each as much work as the forward pass."""
        return (self, self)


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A copy between the device and its host, on a stream of its own."""

    num_bytes: Numbers
    efficiency_fraction: float
    """Share of the link's rate that a copy reaches."""
    is_beside: bool = True
    """Compute of the same action runs beside it; what outlasts that is exposed."""
    num_launches: float = 1.0
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class HostUpdate:
    """The optimizer's update of so many parameters by the cores of the host, which its devices share."""

    num_parameters: Numbers
    seconds_per_parameter: float
    """Of the whole host."""
    num_launches: float = 1.0
    num_bytes: float = 0.0
    flops: float = 0.0


HostOp = HostCopy | HostUpdate
Kernel = Gemm | GroupedGemm | ExpertLayer | Attention | DecodeAttention | Elementwise | Listed


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
    routing: Routing | None = None
    """Of an all_to_all: where the copies of each row in `num_bytes` go. A port (of a rank, or of a node) gets one of
    them and forwards it to all who want it behind; None: every copy travels by itself."""
    library: str = ""
    """Whose implementation (`profiles.calibration.LinkCurves.libraries`); "": NCCL's."""


Op = Kernel | HostOp | Message
