"""Curves of kernel libraries: what the kernels that a serving or training stack really calls take on each device.

The libraries are named after the stack that ships them ("trtllm", "sglang", "vllm", "torch"). A family is one
generation of chips: its members share the surface (which kernel is chosen when), and each has the rates of its own
datasheet. The formulas are in `planner.cost.libraries`.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from pydantic import Field

from profiles.calibration import Fit
from profiles.record import NonNegative, Positive, Record, Sourced
from profiles.surface import Surface


class ProductCurve(Record):
    """Matrix products: t = (c**p + m**p)**(1/p) + launch + inner * min(k, 4096) / 1024 + quantisation pass."""

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    inner_seconds: NonNegative
    exponent: Positive
    quantisation_efficiency_fraction: Positive = 1.0
    """Share of the memory rate that the pass over the activations reaches, in forms that have one."""
    cache_gain: Positive = 1.0
    """Rate at which weights come from the cache, over that from memory."""


class PrefillCurve(Record):
    """t = F / (e * peak) * (1 + half_length / s) * (1 + half_dim / d) + Q / (e_m * B) + launch, s the mean keys
    of a query, twice."""

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    half_length: NonNegative
    half_dim: NonNegative


class DecodeCurve(Record):
    """One query a sequence: t = (launch**p + w**p)**(1/p), w the root sum of squares of reading keys and values and of
    multiplying them in tiles of 64 queries, and the heads' fixed work."""

    memory_efficiency_fraction: Positive
    compute_efficiency_fraction: Positive
    """Share of the 16-bit peak that the tiles reach, most of whose queries are idle."""
    launch_seconds: NonNegative
    exponent: Positive
    cache_gain: Positive
    """Rate at which keys and values come from the cache, over that from memory."""
    head_seconds: NonNegative
    """Of each query head of each sequence, whatever the context."""
    kv_head_seconds: NonNegative
    """Of each key-value head of each sequence, whatever the context."""
    num_extra_tokens: NonNegative
    """Context read beyond what is needed, as whole pages are."""


class ExpertCurve(Record):
    """A mixture of experts: t = (c**p + m**p)**(1/p) + traffic / (e_t * B) + launch, c counting half a tile of rows
    more for every expert that is reached."""

    compute_efficiency_fraction: Positive
    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    num_tile_rows: NonNegative
    exponent: Positive
    traffic_efficiency_fraction: Positive


class StreamCurve(Record):
    """Memory-bound kernels: t = (launch**p + (bytes / (e_m * B))**p)**(1/p), bytes that fit the cache faster."""

    memory_efficiency_fraction: Positive
    launch_seconds: NonNegative
    exponent: Positive
    cache_gain: Positive
    """Rate at which data come from the cache, over that from memory."""


Curve = TypeVar("Curve", ProductCurve, PrefillCurve, DecodeCurve, ExpertCurve, StreamCurve)


class Measured(Record, Generic[Curve]):
    """One kernel of one library on a family: the curve of each member measured, and the surface they share."""

    curves: dict[str, Curve] = Field(min_length=1)
    """By accelerator."""
    surface: Surface = Surface()
    fit: Fit

    def curve(self, accelerator: str) -> Curve:
        """The curve measured on `accelerator`; else the geometric mean over the family."""
        if accelerator in self.curves:
            return self.curves[accelerator]
        members = list(self.curves.values())
        return type(members[0])(
            **{name: _mean([getattr(member, name) for member in members]) for name in type(members[0]).model_fields}
        )


class MixedAttention(Record):
    """Attention of running requests in a batch with prompts, where one kernel takes both: 1 + reread_fraction * (query
    heads a key head - 1) times as long as alone, for every query head reads the keys by itself."""

    reread_fraction: NonNegative
    """Share of those reads that find nothing in the cache."""
    fit: Fit


class LibraryCurves(Sourced):
    """The kernels of every library measured on one family of chips, by "library form" (of attention: "library
    compute/cache", the formats of the products and of keys and values)."""

    accelerators: dict[str, str] = Field(min_length=1)
    """Members of the family -> the member that stands in for it: itself where measured, the same chip under
    another name, or "" for the mean of the family."""
    gemm: dict[str, Measured[ProductCurve]] = Field(default_factory=dict)
    prefill: dict[str, Measured[PrefillCurve]] = Field(default_factory=dict)
    decode: dict[str, Measured[DecodeCurve]] = Field(default_factory=dict)
    experts: dict[str, Measured[ExpertCurve]] = Field(default_factory=dict)
    elementwise: dict[str, Measured[StreamCurve]] = Field(default_factory=dict)
    """By "library kernel", as "torch input_layernorm"."""
    mixed_attention: dict[str, MixedAttention] = Field(default_factory=dict)
    """By library; one that is not here runs prompts and running requests in kernels of their own."""

    def fits(self) -> dict[str, Fit]:
        """Name of every table -> its fit."""
        kinds: tuple[tuple[str, Mapping[str, Measured]], ...] = (
            ("gemm", self.gemm), ("prefill", self.prefill), ("decode", self.decode),
            ("experts", self.experts), ("elementwise", self.elementwise),
        )  # fmt: skip
        return {f"{kind} {name}": table.fit for kind, tables in kinds for name, table in tables.items()}


def _mean(values: list[float]) -> float:
    """Geometric; arithmetic where a value is zero."""
    column = np.array(values, dtype=float)
    return float(np.exp(np.log(column).mean()) if (column > 0).all() else column.mean())
