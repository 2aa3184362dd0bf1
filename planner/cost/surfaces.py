"""Evaluates the surfaces of kernel libraries, and names the features of a shape that they are drawn over."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.work.ops import Attention, DecodeAttention, Elementwise, ExpertLayer, Gemm
from profiles.surface import Surface, Term

Numbers = Any
"""A float or an array."""
Features = Mapping[str, Numbers]
"""Feature name -> its value for each shape; the values broadcast."""

TILES = ((128, 128), (128, 256), (256, 128), (64, 128), (256, 256))
"""Rows and columns of a result that one core computes at a time, of the tiles in common use."""


def surface_factor(surface: Surface, features: Features) -> Numbers:
    """exp of the sum of the surface's terms at `features`: a piecewise linear smoother over their knots.

    Two features interact through a tensor product of hat functions [Wood 2017, Generalized Additive Models, 5.6].
    """
    total: Numbers = 0.0
    for term in surface.terms:
        total = total + _height(term, [features[name] for name in term.features])
    return np.exp(total)


def _height(term: Term, values: list[Numbers]) -> Numbers:
    table = np.array(term.log_factors).reshape([len(knots) for knots in term.knots])
    first, last = _place(term.knots[0], values[0]), _place(term.knots[-1], values[-1])
    low, share = first
    if len(values) == 1:
        return table[low] * (1.0 - share) + table[low + 1] * share
    left, part = last
    near = table[low, left] * (1.0 - part) + table[low, left + 1] * part
    far = table[low + 1, left] * (1.0 - part) + table[low + 1, left + 1] * part
    return near * (1.0 - share) + far * share


def _place(knots: tuple[float, ...], value: Numbers) -> tuple[NDArray[np.int64], Numbers]:
    """Index of the knot below `value`, and the share of the way to the next one."""
    edges = np.array(knots)
    inside = np.clip(value, edges[0], edges[-1])
    below = np.clip(np.searchsorted(edges, inside, side="right") - 1, 0, len(edges) - 2)
    return below, (inside - edges[below]) / (edges[below + 1] - edges[below])


def gemm_features(op: Gemm, num_cores: float) -> Features:
    """log2 of m, n, k and of 128 x 128 tiles a core; of each tile, ln of what half-empty waves and rows waste.

    A wave is one tile on every core; the last wave, and the last rows of tiles, are partly idle
    [NVIDIA, Matrix Multiplication Background User's Guide, sections "wave quantization", "tile quantization"].
    """
    features = {"m": np.log2(op.m), "n": np.log2(op.n), "k": np.log2(op.k)}
    for rows, columns in TILES:
        waves = np.ceil(op.m / rows) * np.ceil(op.n / columns) / num_cores
        idle = np.log(np.ceil(waves) / waves)
        features[f"idle_{rows}x{columns}"] = np.where(waves > 0.5, idle, 0.0)
        features[f"idle_{rows}x{columns}_early"] = np.where((waves > 0.5) & (waves < 2.0), idle, 0.0)
        padded = np.log(np.ceil(op.m / rows) * rows / op.m)
        features[f"rows_{rows}x{columns}"] = np.where(op.m > 0.5 * rows, padded, 0.0)
    features["tiles"] = np.log2(np.ceil(op.m / TILES[0][0]) * np.ceil(op.n / TILES[0][1]) / num_cores)
    return features


def prefill_features(op: Attention) -> Features:
    """log2 of the new tokens, sequences x heads, query heads a key head, head dimension and past; windowed or not."""
    windowed = np.zeros_like(op.query_length * 1.0) if op.window_length is None else np.isfinite(op.window_length) * 1.0
    return {
        "tokens": np.log2(op.query_length),
        "sequences_heads": np.log2(op.batch * op.heads),
        "group": np.log2(op.heads / op.kv_heads),
        "head_dim": np.log2(0.5 * (op.head_dim + op.value_dim)),
        "past": np.log2(np.maximum(op.past_length, 1.0)),
        "windowed": windowed,
    }


def decode_features(op: DecodeAttention) -> Features:
    """log2 of sequences x key heads, keys, query heads a key head, head dimension, and bytes read; windowed or not."""
    windowed = np.zeros_like(op.num_keys * 1.0) if op.window_length is None else np.isfinite(op.window_length) * 1.0
    return {
        "sequences_kv_heads": np.log2(op.batch * op.kv_heads),
        "keys": np.log2(op.num_keys),
        "group": np.log2(op.heads / op.kv_heads),
        "head_dim": np.log2(0.5 * (op.head_dim + op.value_dim)),
        "kv_bytes": np.log2(op.kv_bytes),
        "windowed": windowed,
    }


def expert_features(op: ExpertLayer) -> Features:
    """log2 of rows an expert, experts, their width, the hidden size and the experts of a token; the skew of routing."""
    return {
        "rows_an_expert": np.log2(op.rows / op.experts),
        "experts": np.log2(op.experts),
        "width": np.log2(op.width),
        "hidden": np.log2(op.hidden),
        "rows_a_token": np.log2(op.rows / op.tokens),
        "skew": op.skew,
    }


def stream_features(op: Elementwise) -> Features:
    """log2 of the bytes moved."""
    return {"bytes": np.log2(op.num_bytes)}
