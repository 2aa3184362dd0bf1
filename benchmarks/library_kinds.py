"""The kinds of library kernels that are fitted: their curves, priors, features and knots."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.surface_fit import Design, Floats, Knots
from planner.cost.libraries import (
    decode_seconds,
    expert_seconds,
    prefill_seconds,
    product_peak,
    product_seconds,
    stream_seconds,
)
from planner.cost.roofline import Rates
from planner.cost.surfaces import (
    TILES,
    Features,
    decode_features,
    expert_features,
    gemm_features,
    prefill_features,
    stream_features,
)
from planner.work.forms import form_of
from planner.work.ops import Attention, DecodeAttention, Elementwise, ExpertLayer, Gemm
from profiles.libraries import DecodeCurve, ExpertCurve, PrefillCurve, ProductCurve, StreamCurve
from profiles.record import Record
from profiles.units import MICRO, NANO
from validate.calibration.fit import Prior
from validate.score.kernel_tables import Batch

_M = (0.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0)
_WIDTH = (5.0, 7.0, 9.0, 10.5, 12.0, 13.5, 16.0)
_TILES_A_CORE = (-8.0, -5.0, -4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
_WASTE = (0.0, 0.7)
GEMM_TERMS: Knots = {
    ("m", "n"): (_M, _WIDTH),
    ("m", "k"): (_M, _WIDTH),
    ("n", "k"): (_WIDTH, _WIDTH),
    ("tiles",): (_TILES_A_CORE,),
    **{
        (f"{what}_{rows}x{columns}{when}",): (_WASTE,)
        for rows, columns in TILES
        for what, when in (("idle", ""), ("idle", "_early"), ("rows", ""))
    },
}
_HEAD_DIM = (6.0, 7.0, 7.585, 8.0, 9.0)
_YES_NO = (0.0, 1.0)
_TOKENS = (0.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 17.0)
_HEADS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
_GROUP = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
PREFILL_TERMS: Knots = {
    ("tokens", "sequences_heads"): (_TOKENS, _HEADS),
    ("tokens", "head_dim"): (_TOKENS, _HEAD_DIM),
    ("tokens", "group"): (_TOKENS, _GROUP),
    ("head_dim", "group"): (_HEAD_DIM, _GROUP),
    ("head_dim", "sequences_heads"): (_HEAD_DIM, _HEADS),
    ("tokens", "windowed"): (_TOKENS, _YES_NO),
    ("head_dim", "windowed"): (_HEAD_DIM, _YES_NO),
    ("past", "tokens"): ((0.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0), _TOKENS),
}
_KEYS = (0.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 17.0)
_KV_HEADS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 17.0)
_KV_BYTES = (10.0, 14.0, 16.0, 18.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 32.0, 34.0)
DECODE_TERMS: Knots = {
    ("sequences_kv_heads", "keys"): (_KV_HEADS, _KEYS),
    ("sequences_kv_heads", "group"): (_KV_HEADS, _GROUP),
    ("keys", "group"): (_KEYS, _GROUP),
    ("head_dim", "group"): (_HEAD_DIM, _GROUP),
    ("keys", "windowed"): (_KEYS, _YES_NO),
    ("head_dim", "windowed"): (_HEAD_DIM, _YES_NO),
    ("head_dim", "kv_bytes"): (_HEAD_DIM, _KV_BYTES),
    ("head_dim", "keys"): (_HEAD_DIM, _KEYS),
    ("head_dim", "sequences_kv_heads"): (_HEAD_DIM, _KV_HEADS),
    ("kv_bytes", "group"): (_KV_BYTES, _GROUP),
}

_ROWS = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0)
_EXPERTS = (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
_EXPERT_WIDTH = (4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0)
_SKEW = (0.0, 1.01, 1.2)
EXPERT_TERMS: Knots = {
    ("rows_an_expert", "experts"): (_ROWS, _EXPERTS),
    ("rows_an_expert", "width"): (_ROWS, _EXPERT_WIDTH),
    ("experts", "width"): (_EXPERTS, _EXPERT_WIDTH),
    ("hidden",): ((10.0, 11.0, 11.5, 12.0, 12.5, 13.0),),
    ("rows_a_token",): ((-6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 3.5, 4.5),),
    ("skew", "rows_an_expert"): (_SKEW, _ROWS),
    ("skew", "experts"): (_SKEW, _EXPERTS),
}

STREAM_TERMS: Knots = {("bytes",): (tuple(float(power) for power in range(10, 35)),)}

PRODUCT_PRIORS = {
    "compute_efficiency_fraction": Prior(0.65, 0.3, most=1.0),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(4 * MICRO, 1.0),
    "inner_seconds": Prior(0.6 * MICRO, 1.0),
    "exponent": Prior(2.5, 0.4, most=20.0),
    "quantisation_efficiency_fraction": Prior(0.4, 1.0, most=2.0),
    "cache_gain": Prior(3.0, 0.5, most=20.0),
}
PREFILL_PRIORS = {
    "compute_efficiency_fraction": Prior(0.7, 0.4),
    "memory_efficiency_fraction": Prior(0.7, 0.4),
    "launch_seconds": Prior(12 * MICRO, 1.0),
    "half_length": Prior(150.0, 1.0),
    "half_dim": Prior(40.0, 0.5),
}
DECODE_PRIORS = {
    "memory_efficiency_fraction": Prior(0.92, 0.08, most=1.0),
    "compute_efficiency_fraction": Prior(0.5, 0.5),
    "launch_seconds": Prior(10 * MICRO, 1.0),
    "exponent": Prior(1.2, 0.4, most=5.0),
    "cache_gain": Prior(2.0, 0.5, most=20.0),
    "head_seconds": Prior(3 * NANO, 1.0),
    "kv_head_seconds": Prior(3 * NANO, 1.0),
    "num_extra_tokens": Prior(30.0, 1.0, most=1000.0),
}
EXPERT_PRIORS = {
    "compute_efficiency_fraction": Prior(0.5, 0.5, most=1.0),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(25 * MICRO, 1.0),
    "num_tile_rows": Prior(32.0, 0.7, most=256.0),
    "exponent": Prior(2.5, 0.4, most=20.0),
    "traffic_efficiency_fraction": Prior(0.5, 0.7, most=2.0),
}
STREAM_PRIORS = {
    "memory_efficiency_fraction": Prior(0.7, 0.7, most=1.0),
    "launch_seconds": Prior(3 * MICRO, 1.0),
    "exponent": Prior(1.5, 0.4, most=10.0),
    "cache_gain": Prior(2.0, 0.5, most=20.0),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of kernel: its table, its curve, and how both are priced."""

    table: str
    curve: type[Record]
    priors: Mapping[str, Prior]
    design: Design
    price: Callable[[Any, Any, Batch], Floats]
    """(operation, curve, batch) -> seconds without the surface."""
    features: Callable[[Batch], Features]
    shape: tuple[str, ...]
    """Fields of the operation that make a shape."""


def _price_gemm(op: Gemm, curve: ProductCurve, batch: Batch) -> Floats:
    form, accelerator = form_of(batch.form), batch.accelerator
    rates = Rates(product_peak(accelerator, form), accelerator.memory_bytes_per_second)
    return np.asarray(product_seconds(op, form, curve, rates))


def _price_prefill(op: Attention, curve: PrefillCurve, batch: Batch) -> Floats:
    accelerator = batch.accelerator
    rates = Rates(accelerator.flops_per_second("bf16"), accelerator.memory_bytes_per_second)
    return np.asarray(prefill_seconds(op, curve, rates))


def _price_decode(op: DecodeAttention, curve: DecodeCurve, batch: Batch) -> Floats:
    return np.asarray(decode_seconds(op, curve, batch.accelerator))


def _price_experts(op: ExpertLayer, curve: ExpertCurve, batch: Batch) -> Floats:
    accelerator = batch.accelerator
    rates = Rates(product_peak(accelerator, form_of(batch.form)), accelerator.memory_bytes_per_second)
    return np.asarray(expert_seconds(op, curve, rates))


def _price_stream(op: Elementwise, curve: StreamCurve, batch: Batch) -> Floats:
    return np.asarray(stream_seconds(op, curve, batch.accelerator))


_HEADS_SHAPE = ("batch", "heads", "kv_heads", "head_dim", "window_length")
KINDS: Mapping[str, Kind] = {
    "gemm": Kind(
        "gemm.csv.gz", ProductCurve, PRODUCT_PRIORS, Design.of(GEMM_TERMS), _price_gemm,
        lambda batch: gemm_features(_as(Gemm, batch), float(batch.accelerator.num_cores or 1)), ("m", "n", "k"),
    ),
    "prefill": Kind(
        "attention_prefill.csv.gz", PrefillCurve, PREFILL_PRIORS, Design.of(PREFILL_TERMS), _price_prefill,
        lambda batch: prefill_features(_as(Attention, batch)), (*_HEADS_SHAPE, "query_length", "past_length"),
    ),
    "decode": Kind(
        "attention_decode.csv.gz", DecodeCurve, DECODE_PRIORS, Design.of(DECODE_TERMS), _price_decode,
        lambda batch: decode_features(_as(DecodeAttention, batch)), (*_HEADS_SHAPE, "context_length"),
    ),
    "experts": Kind(
        "moe.csv.gz", ExpertCurve, EXPERT_PRIORS, Design.of(EXPERT_TERMS), _price_experts,
        lambda batch: expert_features(_as(ExpertLayer, batch)),
        ("tokens", "rows", "hidden", "width", "experts"),
    ),
    "elementwise": Kind(
        "mem_bound.csv.gz", StreamCurve, STREAM_PRIORS, Design.of(STREAM_TERMS), _price_stream,
        lambda batch: stream_features(_as(Elementwise, batch)), ("num_bytes",),
    ),
}  # fmt: skip


def _as(kind: type, batch: Batch) -> Any:
    assert isinstance(batch.op, kind)
    return batch.op
