"""Tables of measured times -> calibration curves, with the error on shapes that a fit has not seen.

Fits minimise the mean |log(predicted / measured)| of the very formulas that price plans. Weak priors (a centre and a
spread in log units, worth one measurement of 10 % each) decide what a table cannot: a table of one head dimension
says nothing of the others. Arrays are one value a measurement, in SI units. Nothing here knows torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from planner.cost.collectives import COLLECTIVES, message_seconds
from planner.cost.kernels import Rates, attention_seconds, elementwise_seconds, gemm_seconds, smooth_max
from planner.work.ops import Attention, Elementwise, Gemm
from profiles.calibration import (
    AttentionCurve,
    CollectiveCurve,
    CollectiveOp,
    ElementwiseCurve,
    Fit,
    GemmCurve,
)
from profiles.cluster import Cluster
from profiles.units import MICRO

Floats = NDArray[np.float64]
Parameters = Mapping[str, Any]

_LOG_ERROR_SCALE = 0.1
"""Typical |log error| of a measurement, against which the priors are weighed."""
_NUM_FOLDS = 2
_SEED = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a table of measurements came from."""

    machine: str
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of a parameter before the table speaks: its centre, and one standard deviation in log units."""

    centre: float
    log_spread: float
    least: float = 0.0
    most: float = math.inf


GEMM_PRIORS: Mapping[str, Prior] = {
    "compute_efficiency_fraction": Prior(0.7, 0.3, most=1.0),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(4 * MICRO, 1.0),
    "inner_seconds": Prior(0.6 * MICRO, 1.0),
    "exponent": Prior(2.5, 0.4),
}
ATTENTION_PRIORS: Mapping[str, Prior] = {
    "compute_efficiency_fraction": Prior(0.75, 0.3),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(12 * MICRO, 1.0),
    "half_length": Prior(150.0, 1.0),
    "half_dim": Prior(40.0, 0.3),
}
ELEMENTWISE_PRIORS: Mapping[str, Prior] = {
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(3 * MICRO, 1.0),
}
COLLECTIVE_PRIORS: Mapping[str, Prior] = {
    "latency_seconds": Prior(15 * MICRO, 1.5),
    "bus_fraction": Prior(0.7, 0.7),
    "exponent": Prior(0.8, 0.3, least=0.5),  # below, the largest messages never reach the fitted rate
}


def fit_gemm(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    seconds: ArrayLike,
    rates: Rates,
    dtype: str,
    origin: Origin,
    *,
    weights: ArrayLike | None = None,
    misaligned_factor: float = 1.0,
    misaligned_batched_factor: float = 1.0,
    priors: Mapping[str, Prior] = GEMM_PRIORS,
) -> GemmCurve:
    """The curve of `planner.cost.kernels.gemm_seconds` for products [m, k] [k, n] that took `seconds` each.

    The misaligned factors are carried into the curve, not fitted: tables of aligned shapes cannot tell them.
    Raises ValueError on columns of unequal length, or figures that are not positive and finite.
    """
    columns = _columns(m=m, n=n, k=k, seconds=seconds)
    fixed: dict[str, Any] = {
        "misaligned_factor": misaligned_factor, "misaligned_batched_factor": misaligned_batched_factor,
    }  # fmt: skip

    def predict(parameters: Parameters, rows: Any) -> Floats:
        op = Gemm(columns["m"][rows], columns["n"][rows], columns["k"][rows], dtype=dtype)
        return gemm_seconds(op, GemmCurve.model_construct(**parameters, **fixed), rates)

    fitted, fit = _fit(predict, priors, columns, _group(columns, "m", "n", "k"), weights, origin)
    return GemmCurve(**fitted, **fixed, fit=fit)


def fit_attention(
    operations: Attention,
    seconds: ArrayLike,
    rates: Rates,
    origin: Origin,
    *,
    backward_ratio: float = 1.0,
    weights: ArrayLike | None = None,
    priors: Mapping[str, Prior] = ATTENTION_PRIORS,
) -> AttentionCurve:
    """The curve of `planner.cost.kernels.attention_seconds` for forward `operations`, whose fields are arrays.

    `backward_ratio` is carried into the curve, not fitted. Raises ValueError as `fit_gemm`.
    """
    names = ("batch", "heads", "kv_heads", "query_length", "key_length", "head_dim", "value_dim")
    columns = _columns(**{name: getattr(operations, name) for name in names}, seconds=seconds)
    fixed: dict[str, Any] = {"backward_ratio": backward_ratio}

    def predict(parameters: Parameters, rows: Any) -> Floats:
        op = replace(operations, **{name: columns[name][rows] for name in names})
        return attention_seconds(op, AttentionCurve.model_construct(**parameters, **fixed), rates)

    fitted, fit = _fit(predict, priors, columns, _group(columns, *names), weights, origin)
    return AttentionCurve(**fitted, **fixed, fit=fit)


def fit_elementwise(
    num_bytes: ArrayLike,
    seconds: ArrayLike,
    memory_bytes_per_second: float,
    origin: Origin,
    *,
    weights: ArrayLike | None = None,
    priors: Mapping[str, Prior] = ELEMENTWISE_PRIORS,
) -> ElementwiseCurve:
    """The curve of `planner.cost.kernels.elementwise_seconds` for kernels that move `num_bytes`.

    Raises ValueError as `fit_gemm`.
    """
    columns = _columns(num_bytes=num_bytes, seconds=seconds)

    def predict(parameters: Parameters, rows: Any) -> Floats:
        curve = ElementwiseCurve.model_construct(**parameters)
        return elementwise_seconds(Elementwise(columns["num_bytes"][rows]), curve, memory_bytes_per_second)

    fitted, fit = _fit(predict, priors, columns, _group(columns, "num_bytes"), weights, origin)
    return ElementwiseCurve(**fitted, fit=fit)


def fit_collective(
    collective: CollectiveOp,
    num_ranks: ArrayLike,
    num_bytes: ArrayLike,
    seconds: ArrayLike,
    link_bytes_per_second: float,
    origin: Origin,
    *,
    in_network_reduction: bool = False,
) -> CollectiveCurve:
    """The curve of `collective` within one tier, from times over groups of `num_ranks`; sizes as in nccl-tests.

    Each group size is fitted by itself: t = (L**p + W**p)**(1/p), W at a fraction of the link's rate (one direction,
    per device). The held-out error is of message sizes left out. Raises ValueError as `fit_gemm`.
    """
    columns = _columns(num_ranks=num_ranks, num_bytes=num_bytes, seconds=seconds)
    wire_bytes = COLLECTIVES[collective].wire_bytes(columns["num_bytes"], columns["num_ranks"], 1.0)
    wire_seconds = wire_bytes / link_bytes_per_second
    table = []
    for ranks in np.unique(columns["num_ranks"]):
        chosen = columns["num_ranks"] == ranks
        wire = wire_seconds[chosen]
        part = {name: column[chosen] for name, column in columns.items()}

        def predict(parameters: Parameters, rows: Any, wire: Floats = wire) -> Floats:
            transfer = wire[rows] / parameters["bus_fraction"]
            return smooth_max(parameters["latency_seconds"], transfer, parameters["exponent"])

        fitted, errors = _fit_and_errors(predict, COLLECTIVE_PRIORS, part, _group(part, "num_bytes"), None)
        table.append((int(ranks), fitted, errors))
    return _collective_curve(table, origin, in_network_reduction)


def fit_outer_tier(
    collective: CollectiveOp,
    cluster: Cluster,
    sizes: ArrayLike,
    num_bytes: ArrayLike,
    seconds: ArrayLike,
    origin: Origin,
    *,
    weights: ArrayLike = 1.0,
) -> CollectiveCurve:
    """The curve of `collective` over the outermost tier of `cluster`, whose inner tiers are calibrated.

    `sizes` are ranks of groups at stride 1 that fill whole inner tiers; what the inner tiers take is predicted and
    the outermost fitted to the rest. Each number of inner groups is fitted by itself. Raises ValueError as `fit_gemm`.
    """
    columns = _columns(sizes=sizes, num_bytes=num_bytes, weights=weights, seconds=seconds)
    inside = cluster.tiers[-2].num_devices if len(cluster.tiers) > 1 else 1
    table = []
    for size in np.unique(columns["sizes"]):
        chosen = columns["sizes"] == size
        part = {name: column[chosen] for name, column in columns.items()}
        joined = max(int(size) // inside, 2)

        def predict(
            parameters: Parameters,
            rows: Any,
            size: float = float(size),
            joined: int = joined,
            part: Mapping[str, Floats] = part,
        ) -> Floats:
            trial = _with_outer_curve(cluster, collective, joined, parameters)
            return message_seconds(collective, part["num_bytes"][rows], size, 1.0, trial)

        fitted, errors = _fit_and_errors(predict, COLLECTIVE_PRIORS, part, _group(part, "num_bytes"), part["weights"])
        table.append((joined, fitted, errors))
    return _collective_curve(table, origin, False)


def _with_outer_curve(cluster: Cluster, collective: CollectiveOp, joined: int, parameters: Parameters) -> Cluster:
    columns: dict[str, Any] = {name: (value,) for name, value in parameters.items()}
    curve = CollectiveCurve.model_construct(num_ranks=(joined,), in_network_reduction=False, **columns)
    return with_outer_curve(cluster, collective, curve)


def with_outer_curve(cluster: Cluster, collective: CollectiveOp, curve: CollectiveCurve) -> Cluster:
    """`cluster` whose outermost tier has `curve` alone."""
    outer = cluster.tiers[-1]
    curves = outer.curves.model_copy(update={"collectives": {collective: curve}})
    outer = outer.model_copy(update={"curves": curves})
    return cluster.model_copy(update={"tiers": (*cluster.tiers[:-1], outer)})


def _collective_curve(
    table: Sequence[tuple[int, Parameters, Floats]], origin: Origin, in_network_reduction: bool
) -> CollectiveCurve:
    errors = np.concatenate([errors for _, _, errors in table])
    return CollectiveCurve(
        num_ranks=tuple(ranks for ranks, _, _ in table),
        latency_seconds=tuple(fitted["latency_seconds"] for _, fitted, _ in table),
        bus_fraction=tuple(fitted["bus_fraction"] for _, fitted, _ in table),
        exponent=tuple(fitted["exponent"] for _, fitted, _ in table),
        in_network_reduction=in_network_reduction,
        fit=_fit_record(origin, errors),
    )


Predict = Callable[[Parameters, Any], Floats]
"""(parameters, index of rows) -> predicted seconds of those rows."""


def _fit(
    predict: Predict,
    priors: Mapping[str, Prior],
    columns: Mapping[str, Floats],
    groups: NDArray[np.int64],
    weights: ArrayLike | None,
    origin: Origin,
) -> tuple[dict[str, float], Fit]:
    fitted, errors = _fit_and_errors(predict, priors, columns, groups, weights)
    return fitted, _fit_record(origin, errors)


def _fit_and_errors(
    predict: Predict,
    priors: Mapping[str, Prior],
    columns: Mapping[str, Floats],
    groups: NDArray[np.int64],
    weights: ArrayLike | None,
) -> tuple[dict[str, float], Floats]:
    """Parameters fitted on every row, and each row's error under a fit that has not seen its group.

    Groups are dealt into folds at random; rows of one shape stay together, as two measurements of a shape would
    otherwise vouch for each other.
    """
    seconds = columns["seconds"]
    share = np.ones_like(seconds) if weights is None else np.asarray(weights, dtype=np.float64)
    everything = np.arange(len(seconds))
    fold = np.random.default_rng(_SEED).permutation(groups.max() + 1)[groups] % _NUM_FOLDS
    errors = np.full(len(seconds), math.nan)
    for left_out in range(_NUM_FOLDS):
        seen, unseen = everything[fold != left_out], everything[fold == left_out]
        if len(seen) and len(unseen):
            parameters = _minimise(predict, priors, seconds, share, seen)
            errors[unseen] = np.abs(predict(parameters, unseen) / seconds[unseen] - 1.0)
    return _minimise(predict, priors, seconds, share, everything), errors


def _minimise(
    predict: Predict, priors: Mapping[str, Prior], seconds: Floats, share: Floats, rows: NDArray[np.int64]
) -> dict[str, float]:
    """Parameters of least weighted mean |log(predicted / seconds)| over `rows` plus the priors' penalty."""
    names = tuple(priors)
    centres = np.log([prior.centre for prior in priors.values()])
    spreads = np.array([prior.log_spread for prior in priors.values()])
    bounds = np.array([(prior.least, prior.most) for prior in priors.values()]).T
    log_seconds, weight = np.log(seconds[rows]), share[rows] / share[rows].sum()

    def loss(position: Any) -> float:
        parameters = dict(zip(names, np.clip(np.exp(position), *bounds), strict=True))
        misfit = np.abs(np.log(predict(parameters, rows)) - log_seconds) @ weight
        surprise = 0.5 * np.sum(((position - centres) / spreads) ** 2)
        return float(misfit + _LOG_ERROR_SCALE * surprise / len(rows))

    position: Any = centres
    limits: dict[str, Any] = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-4, "fatol": 1e-7}
    for _ in range(3):  # a restarted simplex leaves the narrow valleys in which the first one stalls
        simplex = np.vstack([position, position + np.diag(0.5 * spreads)])
        options = limits | {"initial_simplex": simplex}
        found = minimize(loss, position, method="Nelder-Mead", options=options)  # type: ignore[call-overload, unused-ignore]
        position = found.x
    return {name: float(value) for name, value in zip(names, np.clip(np.exp(position), *bounds), strict=True)}


def _fit_record(origin: Origin, errors: Floats) -> Fit:
    known = errors[np.isfinite(errors)]
    return Fit(
        machine=origin.machine,
        date=origin.date,
        num_points=len(errors),
        held_out_median_error_fraction=float(np.median(known)) if len(known) else None,
        held_out_p90_error_fraction=float(np.quantile(known, 0.9)) if len(known) else None,
        source=origin.source,
    )


def _columns(**values: ArrayLike) -> dict[str, Floats]:
    """The columns as equally long float arrays; a scalar stands for all rows."""
    length = np.asarray(values["seconds"]).size
    columns = {}
    for name, value in values.items():
        column = np.asarray(value, dtype=np.float64).ravel()
        if column.size not in (1, length) or not length:
            raise ValueError(f"{name}: {column.size} values, but seconds has {length}; give at least one of each")
        if not (np.isfinite(column) & (column > 0)).all():
            worst = column[~(np.isfinite(column) & (column > 0))][0]
            raise ValueError(f"{name}: {worst} is not a positive, finite number")
        columns[name] = np.broadcast_to(column, (length,)).copy()
    return columns


def _group(columns: Mapping[str, Floats], *names: str) -> NDArray[np.int64]:
    """Index of each row's shape: rows with equal values of the named columns share one."""
    shapes = np.stack([columns[name] for name in names], axis=1)
    return np.unique(shapes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
