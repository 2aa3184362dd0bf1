"""One accelerator: what the datasheet says it can do."""

from typing import Literal

from pydantic import Field, model_validator

from profiles.record import Count, Positive, Sourced

Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]


class Accelerator(Sourced):
    """Dense datasheet peaks of one device (never the 2:4-sparse figures).

    TOML keys use vendor units: `peak_tflops` and `attainable_tflops` (tables by dtype), `memory_gib`,
    `memory_gb_per_second`, `cache_mib`. Memory chips hold powers of two: a datasheet's 80 GB are 80 GiB.
    """

    vendor: str
    kind: Literal["gpu", "tpu", "npu", "cpu", "fpga"]
    peak_flops_per_second: dict[Dtype, Positive] = Field(min_length=1)
    attainable_flops_per_second: dict[Dtype, Positive] = Field(default_factory=dict)
    """What the best matrix product of a long search over shapes reached; empty: nobody measured it."""
    memory_bytes: Positive
    memory_bytes_per_second: Positive
    host_bytes_per_second: Positive | None = None
    """To or from the host, one way; None: not known, so that nothing can be offloaded there."""
    cache_bytes: Positive | None = None
    num_cores: Count | None = None
    """Streaming multiprocessors, compute units, tensor cores of a TPU, or cores of a CPU."""
    block_scaling: bool = False
    """Matrix units multiply 8-bit elements with a scale for every 32 of them [OCP Microscaling Formats v1.0]."""
    sparse_products: bool = False
    """Matrix units skip the zeros of weights of which two in four are kept [Mishra 2021, arXiv:2104.08378]."""
    power_watts: Positive | None = None
    aliases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _attains_no_more_than_its_peak(self) -> "Accelerator":
        for dtype, reached in self.attainable_flops_per_second.items():
            if reached > (peak := self.flops_per_second(dtype)):
                raise ValueError(
                    f"attainable_tflops.{dtype} must be at most the peak, {peak:g} FLOP/s, got {reached:g}"
                )
        return self

    def flops_per_second(self, dtype: str) -> float:
        """Peak FLOP/s at `dtype`; a 16-bit format falls back to the other one.

        Raises ValueError naming the dtypes the device has when there is none to use.
        """
        twins = {"bf16": "fp16", "fp16": "bf16", "tf32": "fp32"}
        for candidate in (dtype, twins.get(dtype)):
            if candidate in self.peak_flops_per_second:
                return self.peak_flops_per_second[candidate]
        known = ", ".join(sorted(self.peak_flops_per_second))
        raise ValueError(f"accelerator {self.name}: no peak for precision {dtype!r}; it has {known}")
