"""Seconds of the kernels of named libraries: a curve of the device times the surface of its family.

Where a serving or training stack is known to call the kernels of a library, these prices replace the library-blind
curves of `planner.cost.kernels`. They are rooflines [Williams 2009, doi:10.1145/1498765.1498785] whose constants
`profiles.libraries` holds. Every function broadcasts over the fields of its operation.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from planner.cost.roofline import Rates, Seconds, smooth_max
from planner.cost.surfaces import (
    decode_features,
    expert_features,
    gemm_features,
    prefill_features,
    stream_features,
    surface_factor,
)
from planner.work.forms import Form, form_of
from planner.work.ops import Attention, DecodeAttention, Elementwise, ExpertLayer, Gemm
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.libraries import (
    DecodeCurve,
    ExpertCurve,
    LibraryCurves,
    Measured,
    PrefillCurve,
    ProductCurve,
    StreamCurve,
)
from profiles.units import DTYPE_BYTES

_SPLIT_INNER = 4096.0
_INNER_UNIT = 1024.0
"""Libraries split inner dimensions beyond `_SPLIT_INNER`; `inner_seconds` counts per `_INNER_UNIT`."""
_USABLE_CACHE = 0.9
_CACHE_SHARPNESS = 6.0
"""Keys and values of a size s hit a cache of size c with share 1 / (1 + (s / (0.9 c))**6): other data use it too."""
_QUERY_TILE = 64.0
"""Queries that a tile of matrix units takes at least; one token a sequence fills as many as share a key head."""
_STANDS_IN = ("trtllm", "sglang", "vllm", "torch")
_Tables = TypeVar("_Tables", ProductCurve, PrefillCurve, DecodeCurve, ExpertCurve, StreamCurve)


def library_gemm_seconds(op: Gemm, accelerator: Accelerator) -> Seconds:
    """Device seconds of a product by the kernel of `op.library` in `op.form` on `accelerator`.

    Raises ValueError when no such kernel was measured on the accelerator's family, or it has no peak for the form.
    """
    name = op.form or op.dtype
    form = form_of(name)
    table = _measured(_family(accelerator).gemm, op.library, form.dense_form or name, accelerator)
    curve = table.curve(_stand_in(accelerator))
    rates = Rates(product_peak(accelerator, form), accelerator.memory_bytes_per_second)
    return product_seconds(op, form, curve, rates) * surface_factor(
        table.surface, gemm_features(op, _num_cores(accelerator))
    )


def product_seconds(op: Gemm, form: Form, curve: ProductCurve, rates: Rates) -> Seconds:
    """t = (c**p + m**p)**(1/p) + launches * t0 + t_k * min(k, 4096) / 1024 + q: a smooth roofline [Williams 2009,
    doi:10.1145/1498765.1498785] with weights partly in the cache and a pass over the activations.

    c = FLOPs / (e_c * peak); m = (bytes - cached weights * (1 - 1 / cache_gain)) / (e_m * bandwidth);
    q = (2 + activation bytes) m k / (e_q * bandwidth) where the form quantises.
    """
    weight_bytes = op.batch * form.weight_bytes * op.k * op.n
    moved = op.num_bytes - op.cached_fraction * weight_bytes * (1.0 - 1.0 / curve.cache_gain)
    bandwidth = rates.memory_bytes_per_second
    roofline = smooth_max(
        op.flops / (curve.compute_efficiency_fraction * rates.flops_per_second),
        moved / (curve.memory_efficiency_fraction * bandwidth),
        curve.exponent,
    )
    inner = curve.inner_seconds * np.minimum(op.k, _SPLIT_INNER) / _INNER_UNIT
    converted = (2.0 + form.activation_bytes) * op.batch * op.m * op.k if form.quantises else 0.0
    quantisation = converted / (curve.quantisation_efficiency_fraction * bandwidth)
    return roofline + op.num_launches * curve.launch_seconds + inner + quantisation


def product_peak(accelerator: Accelerator, form: Form) -> float:
    """Datasheet FLOP/s of a form, of 16-bit products where the device has no units for its format.

    Raises ValueError where it has neither.
    """
    known = accelerator.peak_flops_per_second
    return accelerator.flops_per_second(form.dtype if form.dtype in known else "bf16")


def library_prefill_seconds(op: Attention, accelerator: Accelerator) -> Seconds:
    """Device seconds of attention over new tokens by the kernel of `op.library` on `accelerator`.

    Raises ValueError when no such kernel was measured on the accelerator's family.
    """
    name = f"{op.dtype}/{op.kv_dtype or op.dtype}"
    table = _measured(_family(accelerator).prefill, op.library, name, accelerator)
    rates = Rates(accelerator.flops_per_second("bf16"), accelerator.memory_bytes_per_second)
    price = prefill_seconds(op, table.curve(_stand_in(accelerator)), rates)
    return price * surface_factor(table.surface, prefill_features(op))


def prefill_seconds(op: Attention, curve: PrefillCurve, rates: Rates) -> Seconds:
    """t = F / (e * peak) * (1 + half_length / s) * (1 + half_dim / d) + bytes / (e_m * bandwidth) + launches * t0.

    s is twice the mean keys of a query: the sequence where it has no past. The peak is that of 16-bit products in
    every format: softmax bounds the rest [Shah 2024, arXiv:2407.08608, section 3.3]. Backward kernels are not priced.
    """
    length = 2.0 * op.num_pairs / op.query_length
    mean_dim = 0.5 * (op.head_dim + op.value_dim)
    ramp = (1.0 + curve.half_length / length) * (1.0 + curve.half_dim / mean_dim)
    compute = op.flops / (curve.compute_efficiency_fraction * rates.flops_per_second) * ramp
    memory = op.num_bytes / (curve.memory_efficiency_fraction * rates.memory_bytes_per_second)
    return compute + memory + op.num_launches * curve.launch_seconds


def library_decode_seconds(op: DecodeAttention, accelerator: Accelerator) -> Seconds:
    """Device seconds of one decoded token a sequence by the kernel of `op.library` on `accelerator`.

    Raises ValueError when no such kernel was measured on the accelerator's family.
    """
    table = _measured(_family(accelerator).decode, op.library, f"{op.dtype}/{op.kv_dtype}", accelerator)
    price = decode_seconds(op, table.curve(_stand_in(accelerator)), accelerator)
    return price * surface_factor(table.surface, decode_features(op))


def decode_seconds(op: DecodeAttention, curve: DecodeCurve, accelerator: Accelerator) -> Seconds:
    """t = ((launches * t0)**p + w**p)**(1/p), w = ((bytes / (e_m B))**2 + (c / (e_c peak))**2)**(1/2) + heads' seconds.

    A roofline [Williams 2009]: keys and values that fit the cache come `cache_gain` times as fast, and pages are read
    whole [Kwon 2023, arXiv:2309.06180, section 4.1]; c = 2 * 64 FLOPs for every element of keys and values, whose
    conversion bounds 8-bit caches on devices with fast memory.
    """
    whole = 1.0 + curve.num_extra_tokens / op.num_keys
    pages = op.kv_bytes * whole
    hits = 1.0 / (1.0 + (pages / (_USABLE_CACHE * _cache_bytes(accelerator))) ** _CACHE_SHARPNESS)
    moved = pages * (1.0 - hits * (1.0 - 1.0 / curve.cache_gain)) + op.num_bytes - op.kv_bytes
    memory = moved / (curve.memory_efficiency_fraction * accelerator.memory_bytes_per_second)
    tiles = 2.0 * _QUERY_TILE * op.kv_bytes / DTYPE_BYTES[op.kv_dtype] * whole
    compute = tiles / (curve.compute_efficiency_fraction * accelerator.flops_per_second("bf16"))
    heads = op.batch * (op.heads * curve.head_seconds + op.kv_heads * curve.kv_head_seconds)
    return smooth_max(np.hypot(memory, compute) + heads, op.num_launches * curve.launch_seconds, curve.exponent)


def mixed_attention_factor(library: str, num_heads_per_key: float, accelerator: Accelerator) -> float:
    """Time of attention of running requests in a batch with prompts, over that alone: 1 + r (heads a key head - 1).

    Groups of query heads share keys [Ainslie 2023, arXiv:2305.13245, section 2], which kernels for prompts read once
    for each head; r is the share of these reads that no cache holds. 1 where nobody measured one.
    """
    known = _family(accelerator).mixed_attention.get(library)
    return 1.0 + known.reread_fraction * (num_heads_per_key - 1.0) if known else 1.0


def library_expert_seconds(op: ExpertLayer, accelerator: Accelerator) -> Seconds:
    """Device seconds of a mixture of experts by the kernels of `op.library` in `op.form` on `accelerator`.

    Raises ValueError when no such kernel was measured on the accelerator's family.
    """
    table = _measured(_family(accelerator).experts, op.library, op.form, accelerator)
    rates = Rates(product_peak(accelerator, form_of(op.form)), accelerator.memory_bytes_per_second)
    price = expert_seconds(op, table.curve(_stand_in(accelerator)), rates)
    return price * surface_factor(table.surface, expert_features(op))


def expert_seconds(op: ExpertLayer, curve: ExpertCurve, rates: Rates) -> Seconds:
    """t = (c**p + m**p)**(1/p) + traffic / (e_t * bandwidth) + launches * t0.

    c = FLOPs / (e_c * peak) of the rows and half a tile for every expert that is reached [Gale 2022, MegaBlocks,
    arXiv:2211.15841, section 3]; m = bytes of the products / (e_m * bandwidth).
    """
    half_tiles = 0.5 * curve.num_tile_rows * op.active_experts / op.rows
    compute = op.flops * (1.0 + half_tiles) / (curve.compute_efficiency_fraction * rates.flops_per_second)
    memory = op.product_bytes / (curve.memory_efficiency_fraction * rates.memory_bytes_per_second)
    traffic = op.traffic_bytes / (curve.traffic_efficiency_fraction * rates.memory_bytes_per_second)
    return smooth_max(compute, memory, curve.exponent) + traffic + op.num_launches * curve.launch_seconds


def library_stream_seconds(op: Elementwise, accelerator: Accelerator) -> Seconds:
    """Device seconds of the memory-bound kernel `op.kernel` of `op.library` on `accelerator`.

    Raises ValueError when no such kernel was measured on the accelerator's family.
    """
    table = _measured(_family(accelerator).elementwise, op.library, op.kernel, accelerator)
    price = stream_seconds(op, table.curve(_stand_in(accelerator)), accelerator)
    return price * surface_factor(table.surface, stream_features(op))


def stream_seconds(op: Elementwise, curve: StreamCurve, accelerator: Accelerator) -> Seconds:
    """t = ((launches * t0)**p + (bytes / (e_m * bandwidth))**p)**(1/p): the memory side of a roofline [Williams 2009],
    `cache_gain` times as fast where all of it fits the cache."""
    hits = 1.0 / (1.0 + (op.num_bytes / (_USABLE_CACHE * _cache_bytes(accelerator))) ** _CACHE_SHARPNESS)
    moved = op.num_bytes * (1.0 - hits * (1.0 - 1.0 / curve.cache_gain))
    transfer = moved / (curve.memory_efficiency_fraction * accelerator.memory_bytes_per_second)
    return smooth_max(transfer, op.num_launches * curve.launch_seconds, curve.exponent)


def library_error_fraction(
    op: Gemm | Attention | DecodeAttention | ExpertLayer | Elementwise, accelerator: Accelerator
) -> float:
    """Error that nine of ten prices of `op` by its library's kernel stay below, on shapes that the fit had not seen.

    On an accelerator that nobody measured it grows as the median error did when its relatives were left out, where
    that is known. Raises ValueError when no such kernel was measured on the accelerator's family.
    """
    table = _table_of(op, accelerator)
    fit = table.fit
    assert fit.held_out_p90_error_fraction is not None
    if accelerator.name in table.curves or not fit.left_out_device_median_error_fraction:
        return fit.held_out_p90_error_fraction
    growth = fit.left_out_device_median_error_fraction / (fit.held_out_median_error_fraction or 1.0)
    return fit.held_out_p90_error_fraction * max(growth, 1.0)


def _table_of(op: Gemm | Attention | DecodeAttention | ExpertLayer | Elementwise, accelerator: Accelerator) -> Measured:
    family = _family(accelerator)
    match op:
        case Gemm():
            return _measured(family.gemm, op.library, op.form or op.dtype, accelerator)
        case Attention():
            return _measured(family.prefill, op.library, f"{op.dtype}/{op.kv_dtype or op.dtype}", accelerator)
        case DecodeAttention():
            return _measured(family.decode, op.library, f"{op.dtype}/{op.kv_dtype}", accelerator)
        case ExpertLayer():
            return _measured(family.experts, op.library, op.form, accelerator)
        case Elementwise():
            return _measured(family.elementwise, op.library, op.kernel, accelerator)


def _cache_bytes(accelerator: Accelerator) -> float:
    """The last-level cache; one byte where the record states none, which nothing fits."""
    return accelerator.cache_bytes or 1.0


def _num_cores(accelerator: Accelerator) -> float:
    return float(accelerator.num_cores or 1)


def _family(accelerator: Accelerator) -> LibraryCurves:
    return catalog.library_curves(accelerator.name)


def _stand_in(accelerator: Accelerator) -> str:
    return _family(accelerator).accelerators[accelerator.name]


def _measured(
    tables: Mapping[str, Measured[_Tables]], library: str, form: str, accelerator: Accelerator
) -> Measured[_Tables]:
    """The table of `form` by `library`, or by the library measured that is most like it."""
    for candidate in (library, *_STANDS_IN):
        if f"{candidate} {form}" in tables:
            return tables[f"{candidate} {form}"]
    known = ", ".join(sorted({name.split(" ", 1)[1] for name in tables})) or "none"
    raise ValueError(f"form: no kernel of form {form!r} was measured on a relative of {accelerator.name}; {known} were")
