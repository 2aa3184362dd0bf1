"""Fitted curves of kernels and links, each with machine, date, sample size and held-out error.

A curve stores fractions of the datasheet figure, so that it carries over to a device of the same family;
fixed costs are absolute seconds. The formulas that use the curves are in `planner.cost.kernels` and
`planner.cost.collectives`.
"""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from profiles.record import NonNegative, Positive, Record, Sourced


class Fit(Record):
    """Where a fitted curve came from, and how wrong it was on points it had not seen."""

    machine: str
    date: str
    num_points: int = Field(ge=0)
    held_out_median_error_fraction: NonNegative | None = None
    held_out_p90_error_fraction: NonNegative | None = None
    left_out_device_median_error_fraction: NonNegative | None = None
    """On each device, of the curves of its relatives."""
    source: str = Field(min_length=1)


class GemmCurve(Record):
    """t = (c**p + m**p)**(1/p) + launch + inner * min(k, 4096) / 1024; c, m at the given shares of peak."""

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    inner_seconds: NonNegative = 0.0
    exponent: Positive = 2.5
    misaligned_factor: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    """Compute time multiplies by this where n or k is no multiple of 8 (16-byte loads no longer fit)."""
    misaligned_batched_factor: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    """The same for batched products, as of unfused attention with an odd head: their strides are misaligned too."""
    fit: Fit


class GroupedGemmCurve(Record):
    """Products of many experts in one launch: t = (c**p + m**p)**(1/p) + launch.

    c counts half a tile of `num_tile_rows` rows more for every expert that is reached.
    """

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    num_tile_rows: NonNegative = 0.0
    exponent: Positive = 2.5
    fit: Fit


class AttentionCurve(Record):
    """Fused attention: t = F / (e * peak) * (1 + half_length / s) * (1 + half_dim / d) + Q / (e_m * B) + t0.

    s is the key length, d the head dimension; e is what long sequences of infinitely wide heads would
    approach.
    """

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    half_length: NonNegative = 0.0
    half_dim: NonNegative = 0.0
    backward_ratio: Positive = 1.0
    """FLOP/s of the backward kernel over those of the forward kernel."""
    fit: Fit


class ElementwiseCurve(Record):
    """Memory-bound kernels: t = bytes / (e * bandwidth) + launch."""

    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    in_place_efficiency_fraction: Positive | None = None
    """Of kernels that update resident buffers; None: as all others. CPUs map new pages and miss caches else."""
    fit: Fit


class Sustained(Record):
    """What a training step keeps of the compute rate measured in short benchmarks: power limits the clock."""

    fraction: Positive
    attention_fraction: Positive | None = None
    """The same of fused attention, which draws less power than matrix products; None: as those."""
    fit: Fit


class Attainable(Record):
    """How the rate of common products follows from that of the best one, on devices measured both ways."""

    share_fraction: Positive
    """`compute_efficiency_fraction` of bf16 products over the share of peak of the best product: geometric mean."""
    fit: Fit


class KernelCurves(Sourced):
    """Curves of one accelerator (or of the pool that stands in for devices nobody measured)."""

    accelerators: tuple[str, ...] = ()
    """Names of the accelerators served: the one measured and others with the same chip; empty for the pool."""
    gemm: dict[str, GemmCurve] = Field(min_length=1)
    """By dtype."""
    attention: dict[str, AttentionCurve] = Field(min_length=1)
    """By kernel family: "flash-1", "flash-2", "flash-3"."""
    elementwise: ElementwiseCurve
    grouped_gemm: dict[str, GroupedGemmCurve] = Field(default_factory=dict)
    """By dtype: the expert products of a mixture of experts; where there are none they run as other products do."""
    sustained: dict[str, Sustained] = Field(default_factory=dict)
    """By dtype; none where nobody compared the curves with whole steps."""
    attainable: Attainable | None = None
    """Of the pool: what turns a device's best product into its compute rates (`profiles.attainable`)."""

    def sustained_fraction(self, dtype: str, *, attention: bool = False) -> float:
        """Factor on the compute rates of `gemm` (or of `attention`) inside a training step in `dtype`."""
        if not self.sustained:
            return 1.0
        order = ("fp8", "bf16", "fp16") if dtype in ("fp8", "fp4") else ("bf16", "fp16", "fp8")
        kept = self.sustained[_nearest(dtype, self.sustained, order)]
        return (kept.attention_fraction or kept.fraction) if attention else kept.fraction

    def fits(self) -> dict[str, Fit]:
        """Name of every curve -> its fit."""
        return {
            **{f"gemm {dtype}": curve.fit for dtype, curve in self.gemm.items()},
            **{f"attention {kernel}": curve.fit for kernel, curve in self.attention.items()},
            **{f"grouped gemm {dtype}": curve.fit for dtype, curve in self.grouped_gemm.items()},
            "elementwise": self.elementwise.fit,
            **{f"sustained {dtype}": sustained.fit for dtype, sustained in self.sustained.items()},
            **({"attainable": self.attainable.fit} if self.attainable else {}),
        }

    def gemm_curve(self, dtype: str) -> GemmCurve:
        """The curve of `dtype`, or of the nearest format measured, whose fractions carry over best."""
        return self.gemm[_nearest(dtype, self.gemm, ("bf16", "fp16", "fp8", "tf32", "fp32"))]

    def grouped_gemm_curve(self, dtype: str) -> GroupedGemmCurve:
        """The curve of expert products in `dtype`, or of the nearest format measured; else that of plain products."""
        if self.grouped_gemm:
            return self.grouped_gemm[_nearest(dtype, self.grouped_gemm, ("bf16", "fp16", "fp8", "tf32", "fp32"))]
        plain = self.gemm_curve(dtype)
        return GroupedGemmCurve(
            compute_efficiency_fraction=plain.compute_efficiency_fraction,
            memory_efficiency_fraction=plain.memory_efficiency_fraction,
            launch_seconds=plain.launch_seconds, exponent=plain.exponent, fit=plain.fit,
        )  # fmt: skip

    def attention_curve(self, kernel: str) -> AttentionCurve:
        """The curve of the kernel family `kernel`, or of the nearest generation measured."""
        return self.attention[_nearest(kernel, self.attention, ("flash-2", "flash-3", "flash-1"))]


def _nearest(wanted: str, known: Collection[str], order: tuple[str, ...]) -> str:
    return next(name for name in (wanted, *order, *known) if name in known)


CollectiveOp = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast", "reduce"
]  # fmt: skip


class CollectiveCurve(Record):
    """t = (latency**p + (wire bytes / (fraction * link rate))**p)**(1/p), tabulated by group size.

    `bus_fraction` is the nccl-tests bus bandwidth over the tier's one-direction bytes per second per device.
    """

    num_ranks: tuple[int, ...] = Field(min_length=1)
    latency_seconds: tuple[NonNegative, ...]
    bus_fraction: tuple[Positive, ...]
    exponent: tuple[Positive, ...]
    in_network_reduction: bool = False
    """Measured with reductions in the switches (NVLink SHARP)."""
    reduction_gain: tuple[Positive, ...] = ()
    """By num_ranks: what reducing switches multiply a `bus_fraction` measured without by; empty: nothing."""
    is_carried_over: bool = False
    """That of another collective, because this one was not measured."""
    size_bytes: tuple[tuple[Positive, ...], ...] = ()
    """By num_ranks: wire bytes at which `size_factor` hold; empty: the formula is all there is."""
    size_factor: tuple[tuple[Positive, ...], ...] = ()
    """By num_ranks: times measured at `size_bytes` over those of the formula, interpolated between them in logarithms:
    libraries change protocols, and messages leave caches, at sizes that no smooth formula has."""
    fit: Fit

    @model_validator(mode="after")
    def _same_lengths(self) -> "CollectiveCurve":
        lengths = {
            len(self.num_ranks), len(self.latency_seconds), len(self.bus_fraction), len(self.exponent)
        }  # fmt: skip
        if len(lengths) != 1 or len(self.reduction_gain) not in (0, *lengths):
            raise ValueError("num_ranks, latency_seconds, bus_fraction and exponent must have equal lengths")
        shapes = [tuple(map(len, rows)) for rows in (self.size_bytes, self.size_factor)]
        if shapes[0] != shapes[1] or len(shapes[0]) not in (0, *lengths) or 0 in shapes[0]:
            raise ValueError("size_bytes and size_factor need one equally long row for each of num_ranks")
        if any(list(row) != sorted(set(row)) for row in self.size_bytes):
            raise ValueError("size_bytes must increase strictly")
        if list(self.num_ranks) != sorted(set(self.num_ranks)):
            raise ValueError(f"num_ranks must increase strictly, got {self.num_ranks}")
        return self


class LinkCurves(Sourced):
    """Curves of one kind of link, by collective."""

    links: tuple[str, ...] = ()
    """Names of the links served (`Tier.link`): measured, or of the same kind; empty for the pool of a class."""
    link_class: Literal["scale_up", "pcie", "network", "host"]
    collectives: dict[CollectiveOp, CollectiveCurve] = Field(min_length=1)
    """By NCCL (or its like) in a loop or a graph, which is what a compiled or pre-launched step sees."""
    libraries: dict[str, dict[CollectiveOp, CollectiveCurve]] = Field(default_factory=dict)
    """Other implementations: "torch", NCCL called by eager PyTorch, its ranks not in step; one-shot and two-shot
    all-reduces of serving engines, "trtllm", "sglang", "vllm", replayed from a graph, and "sglang-eager",
    "vllm-eager", launched one by one; "oneccl"."""

    def fits(self) -> dict[str, Fit]:
        """Name of every curve -> its fit."""
        others = {
            f"{library} {name}": curve.fit
            for library, curves in self.libraries.items()
            for name, curve in curves.items()
        }
        return {name: curve.fit for name, curve in self.collectives.items()} | others

    def curve(self, collective: str, library: str = "") -> CollectiveCurve:
        """The curve of `collective` by `library`; else by NCCL, of `collective` or the one that moves its bytes most
        alike."""
        if self.measures(collective, library):
            return self.libraries[library][collective]  # type: ignore[index]
        order = ("all_gather", "reduce_scatter", "all_to_all", "all_reduce", "send_recv")
        return self.collectives[_nearest(collective, self.collectives, order)]  # type: ignore[index]

    def measures(self, collective: str, library: str) -> bool:
        """Whether `collective` by `library` was measured on these very links, so that its curve holds all latency."""
        return collective in self.libraries.get(library, {})
