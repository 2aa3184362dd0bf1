"""Where a smooth formula of messages misses their sizes: factors by size, kept where they predict sizes left out."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.cost.collectives import size_factor
from planner.cost.roofline import smooth_max
from profiles.calibration import CollectiveCurve

Floats = NDArray[np.float64]
_LEAST_SIZES = 5
"""Fewer leave nothing to check the factors by."""


def with_size_factors(
    curve: CollectiveCurve, wire_bytes: Floats, seconds: Floats, predict: Callable[[CollectiveCurve], Floats]
) -> CollectiveCurve:
    """`curve`, of one group size, with factors at the measured sizes if these tell the sizes between them better.

    `wire_bytes` and `seconds` are one value a measurement; `predict` prices all of them by a curve. Each inner size is
    predicted from its neighbours' factors; the median error of that must be below the formula's own. Times that would
    fall with size are levelled. The fit of the curve then states the errors with factors.
    """
    knots, place = np.unique(wire_bytes, return_inverse=True)
    if len(knots) < _LEAST_SIZES:
        return curve
    formula = predict(curve)
    measured = _rising(np.array([np.median(seconds[place == index]) for index in range(len(knots))]))
    factors = measured / np.array([formula[place == index][0] for index in range(len(knots))])
    without = [_with(curve, np.delete(knots, index), np.delete(factors, index)) for index in range(len(knots))]
    errors = np.concatenate([
        np.abs(predict(without[index]) / seconds - 1.0)[place == index] for index in range(1, len(knots) - 1)
    ])  # fmt: skip
    inner = (place > 0) & (place < len(knots) - 1)
    if not np.median(errors) < np.median(np.abs(formula / seconds - 1.0)[inner]):
        return curve
    stated = {
        "held_out_median_error_fraction": float(np.median(errors)),
        "held_out_p90_error_fraction": float(np.quantile(errors, 0.9)),
    }
    return _with(curve, knots, factors).model_copy(update={"fit": curve.fit.model_copy(update=stated)})


def curve_seconds(curve: CollectiveCurve, wire_bytes: Floats, link_bytes_per_second: float) -> Floats:
    """Seconds of messages within one tier by `curve`, of one group size."""
    transfer = wire_bytes / (curve.bus_fraction[0] * link_bytes_per_second)
    seconds = smooth_max(curve.latency_seconds[0], transfer, curve.exponent[0])
    return seconds * size_factor(curve, wire_bytes, np.full(np.shape(wire_bytes), float(curve.num_ranks[0])))


def joined(curves: Sequence[CollectiveCurve]) -> CollectiveCurve:
    """One table of the curves of single group sizes, in order of size; the errors are those of the worst size."""
    ordered = sorted(curves, key=lambda curve: curve.num_ranks)
    worst = max(ordered, key=lambda curve: curve.fit.held_out_median_error_fraction or 0.0).fit
    fit = worst.model_copy(update={"num_points": sum(curve.fit.num_points for curve in ordered)})
    names = ("num_ranks", "latency_seconds", "bus_fraction", "exponent")
    columns = {name: tuple(getattr(curve, name)[0] for curve in ordered) for name in names}
    if any(curve.size_factor for curve in ordered):
        columns["size_bytes"] = tuple(curve.size_bytes[0] if curve.size_bytes else (1.0,) for curve in ordered)
        columns["size_factor"] = tuple(curve.size_factor[0] if curve.size_factor else (1.0,) for curve in ordered)
    return CollectiveCurve(**columns, fit=fit)


def _with(curve: CollectiveCurve, knots: Floats, factors: Floats) -> CollectiveCurve:
    return curve.model_copy(update={"size_bytes": (tuple(knots.tolist()),), "size_factor": (tuple(factors.tolist()),)})


def _rising(seconds: Floats) -> Floats:
    """The mean of the least series above and the greatest below that never fall."""
    above = np.maximum.accumulate(seconds)
    below = np.minimum.accumulate(seconds[::-1])[::-1]
    return 0.5 * (above + below)


__all__ = ["curve_seconds", "joined", "with_size_factors"]
