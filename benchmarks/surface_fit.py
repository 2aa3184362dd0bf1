"""Fits the curves and surfaces of a library's kernels: physics a device, what is left a family."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from planner.cost.surfaces import Features
from profiles.surface import Surface, Term
from validate.calibration.fit import Prior

Floats = NDArray[np.float64]
Knots = Mapping[tuple[str, ...], tuple[tuple[float, ...], ...]]
"""Features of each term -> their knots."""

_ROUGHNESS = 0.3
"""Weight of squared second differences along each table; of one row with a log error of 1."""
_RIDGE = 0.02
_ROBUST_ROUNDS = 4
_LEAST_RESIDUAL = 0.02
"""Iteratively reweighted least squares towards least absolute errors; residuals below this weigh alike."""
_MOST_PHYSICS_ROWS = 600
_DECIMALS = 3
"""Log factors are kept to a thousandth."""


def fit_physics(
    predict: Callable[[Mapping[str, float], NDArray[np.int64]], Floats], seconds: Floats, priors: Mapping[str, Prior]
) -> dict[str, float]:
    """Parameters that minimise the mean absolute log error plus the priors' penalty, by restarted simplices."""
    rows = np.random.default_rng(0).permutation(len(seconds))[:_MOST_PHYSICS_ROWS]
    names, log_seconds = tuple(priors), np.log(seconds[rows])
    centres = np.log([prior.centre for prior in priors.values()])
    spreads = np.array([prior.log_spread for prior in priors.values()])
    most = np.log([min(prior.most, 1e12) for prior in priors.values()])

    def loss(position: Any) -> float:
        values = dict(zip(names, np.exp(np.minimum(position, most)), strict=True))
        misfit = np.abs(np.log(predict(values, rows)) - log_seconds).mean()
        return float(misfit + 0.05 * np.sum(((position - centres) / spreads) ** 2) / len(rows))

    position: Any = centres
    for _ in range(2):
        simplex = np.vstack([position, position + np.diag(0.5 * spreads)])
        options: dict[str, Any] = {"maxfev": 180 * len(names), "initial_simplex": simplex}
        position = minimize(loss, position, method="Nelder-Mead", options=options).x
    return {name: float(value) for name, value in zip(names, np.exp(np.minimum(position, most)), strict=True)}


@dataclass(frozen=True, slots=True)
class Design:
    """A surface as a linear model: its terms' hat functions as columns."""

    terms: Knots
    roughness: Floats
    """Second differences of every table, one a row."""

    @classmethod
    def of(cls, terms: Knots) -> "Design":
        """The design of a surface with `terms`."""
        shapes = [tuple(len(knots) for knots in axes) for axes in terms.values()]
        return cls(terms, _roughness(shapes))

    def columns(self, features: Features) -> Floats:
        """The value of every hat (or product of hats) at each row."""
        parts = []
        for names, axes in self.terms.items():
            hats = [_hats(np.asarray(features[name]), knots) for name, knots in zip(names, axes, strict=True)]
            product = hats[0] if len(hats) == 1 else hats[0][:, :, None] * hats[1][:, None, :]
            parts.append(product.reshape(len(product), -1))
        return np.hstack(parts)

    def fit(self, columns: Floats, residuals: Floats) -> Floats:
        """Heights that minimise the absolute residuals, smoothly."""
        penalty = _ROUGHNESS * self.roughness.T @ self.roughness + _RIDGE * np.eye(columns.shape[1])
        heights = np.zeros(columns.shape[1])
        for _ in range(_ROBUST_ROUNDS):
            weights = 1.0 / np.maximum(np.abs(residuals - columns @ heights), _LEAST_RESIDUAL)
            weighted = columns * (weights / weights.mean())[:, None]
            heights = np.linalg.solve(weighted.T @ columns + penalty, weighted.T @ residuals)
        return np.round(heights, _DECIMALS) + 0.0

    def surface(self, heights: Floats) -> Surface:
        """The surface of these heights."""
        terms, start = [], 0
        for names, axes in self.terms.items():
            count = int(np.prod([len(knots) for knots in axes]))
            terms.append(
                Term(features=names, knots=axes, log_factors=tuple(map(float, heights[start : start + count])))
            )
            start += count
        return Surface(terms=tuple(terms))


def folds(shapes: Floats, count: int) -> NDArray[np.int64]:
    """A fold for each row; rows of equal shape share one."""
    _, index = np.unique(shapes, axis=0, return_inverse=True)
    index = index.reshape(-1)
    return np.random.default_rng(0).permutation(index.max() + 1)[index] % count


def _hats(values: Floats, knots: Sequence[float]) -> Floats:
    edges = np.array(knots)
    inside = np.clip(values, edges[0], edges[-1])
    below = np.clip(np.searchsorted(edges, inside, side="right") - 1, 0, len(edges) - 2)
    share = (inside - edges[below]) / (edges[below + 1] - edges[below])
    hats, rows = np.zeros((len(inside), len(edges))), np.arange(len(inside))
    hats[rows, below], hats[rows, below + 1] = 1.0 - share, share
    return hats


def _roughness(shapes: Sequence[tuple[int, ...]]) -> Floats:
    total = sum(int(np.prod(shape)) for shape in shapes)
    differences, start = [np.zeros((1, total))], 0
    for shape in shapes:
        places = start + np.arange(int(np.prod(shape))).reshape(shape)
        for axis in range(len(shape)):
            line = np.moveaxis(places, axis, 0)
            if len(line) < 3:
                continue
            low, middle, high = line[:-2].ravel(), line[1:-1].ravel(), line[2:].ravel()
            block = np.zeros((len(low), total))
            rows = np.arange(len(low))
            block[rows, low], block[rows, middle], block[rows, high] = 1.0, -2.0, 1.0
            differences.append(block)
        start += int(np.prod(shape))
    return np.vstack(differences)
