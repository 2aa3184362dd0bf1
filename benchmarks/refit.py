"""Fits the constants of `benchmarks.constants` to step times, with their priors; and prices runs with them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.constants import CONSTANTS, FACTORS, Constant, offset
from validate.runs.pricing import priced
from validate.runs.resolve import Setting

Floats = NDArray[np.float64]
Slot = tuple[str, Hashable]
SHARED = "any"
"""The slot that a pooled constant's slots are drawn around."""
NOISE = 0.08
"""Log error of a step time that no constant explains; errors beyond it count in proportion, not squared."""
LEAST_LEARNED = 0.7
"""A slot whose spread after the fit is more than this share of its prior's is not identified by the runs."""


@dataclass(frozen=True, slots=True)
class Table:
    """Runs, and the logarithm of their predicted step at multiples of every constant."""

    settings: tuple[Setting, ...]
    measured_seconds: Floats
    sources: NDArray[np.str_]
    base: Floats
    """Log seconds as shipped, shape (runs,)."""
    effects: Floats
    """Change of the log seconds, shape (constants, FACTORS, runs)."""
    is_told: NDArray[np.bool_]
    """Runs that constants are fitted on: dense models."""


def log_seconds(settings: Sequence[Setting]) -> Floats:
    """Logarithm of the predicted step of every setting."""
    return np.log([float(found.step_seconds) for found in priced(settings)])


def tabulate(settings: Sequence[Setting], measured_seconds: Sequence[float], sources: Sequence[str]) -> Table:
    """Price every run at every multiple of every constant it has."""
    base = log_seconds(settings)
    effects = np.zeros((len(CONSTANTS), len(FACTORS), len(settings)))
    for row, constant in enumerate(CONSTANTS):
        having = np.flatnonzero([constant.slot(setting) is not None for setting in settings])
        for column, factor in enumerate(FACTORS):
            if factor == 1.0:
                continue
            changed = [constant.scaled(settings[index], float(factor)) for index in having]
            effects[row, column, having] = log_seconds(changed) - base[having]
    told = np.array([getattr(setting.job.model, "moe", None) is None for setting in settings])
    return Table(tuple(settings), np.asarray(measured_seconds), np.asarray(sources), base, effects, told)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Values of every slot with runs, their log spread after the fit, and the priors."""

    values: dict[Slot, float]
    spreads: dict[Slot, float]
    prior_spreads: dict[Slot, float]

    def level(self, constant: Constant, setting: Setting) -> float:
        """Log value for a setting: its slot's, else the shared one, else the prior."""
        slot = (constant.name, constant.slot(setting))
        value = self.values.get(slot) or self.values.get((constant.name, SHARED)) or constant.prior(setting)
        return log(value)

    def is_identified(self, slot: Slot) -> bool:
        """Whether the runs say more of the slot than its prior does."""
        return self.spreads[slot] <= LEAST_LEARNED * self.prior_spreads[slot]

    def applied(self, setting: Setting) -> Setting:
        """The setting with the fitted constants in place of the shipped ones."""
        for constant in CONSTANTS:
            if constant.slot(setting) is not None:
                factor = exp(offset(constant, setting, self.level(constant, setting)))
                setting = constant.scaled(setting, round(factor, 6))
        return setting


def fit(table: Table, rows: NDArray[np.bool_], *, with_spreads: bool = False) -> Fitted:
    """The most probable constants given the chosen runs: robust errors, sources weighing as the root of their runs.

    Spreads, which take longer than the fit, are nan unless asked for.
    """
    chosen = np.flatnonzero(rows & table.is_told)
    problem = _Problem.of(table, chosen)
    found = minimize(problem.loss, problem.priors, method="L-BFGS-B", options={"maxfun": 40_000})
    spreads = problem.spreads(found.x) if with_spreads else np.full(len(found.x), np.nan)
    return Fitted(
        values={slot: exp(value) for slot, value in zip(problem.slots, found.x, strict=True)},
        spreads=dict(zip(problem.slots, spreads, strict=True)),
        prior_spreads=dict(zip(problem.slots, problem.prior_spreads, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    slots: list[Slot]
    priors: Floats
    prior_spreads: Floats
    parents: NDArray[np.int64]
    """Slot that a slot is drawn around; itself where its prior is a figure."""
    places: NDArray[np.int64]
    """Slot of each constant and run, -1 for none; shape (constants, runs)."""
    shipped: Floats
    """Log shipped value, same shape."""
    effects: Floats
    errors: Floats
    weights: Floats

    @classmethod
    def of(cls, table: Table, chosen: NDArray[np.int64]) -> "_Problem":
        slots: dict[Slot, tuple[float, float]] = {}
        places = np.full((len(CONSTANTS), len(chosen)), -1)
        shipped = np.zeros((len(CONSTANTS), len(chosen)))
        for row, constant in enumerate(CONSTANTS):
            for column, index in enumerate(chosen):
                setting = table.settings[index]
                name = constant.slot(setting)
                if name is None:
                    continue
                prior = (log(constant.prior(setting)), constant.prior_spread)
                if constant.pooled:
                    slots.setdefault((constant.name, SHARED), prior)
                slots.setdefault((constant.name, name), prior)
                places[row, column] = list(slots).index((constant.name, name))
                shipped[row, column] = log(constant.value(setting))
        names = list(slots)
        parents = [names.index((name, SHARED)) if (name, SHARED) in slots else at for at, (name, _) in enumerate(names)]
        sources = table.sources[chosen]
        weights = np.array([np.count_nonzero(sources == source) ** -0.5 for source in sources])
        errors = np.log(table.measured_seconds[chosen]) - table.base[chosen]
        priors, spreads = (np.array([pair[part] for pair in slots.values()]) for part in (0, 1))
        effects = table.effects[:, :, chosen]
        return cls(names, priors, spreads, np.array(parents, int), places, shipped, effects, errors, weights)

    def residuals(self, values: Floats) -> Floats:
        """Log measured over predicted; effects of constants add, each interpolated between its multiples."""
        grid = np.log(FACTORS)
        left = self.errors.copy()
        for row in range(len(self.places)):
            having = np.flatnonzero(self.places[row] >= 0)
            at = values[self.places[row, having]] - self.shipped[row, having]
            position = np.clip((at - grid[0]) / (grid[1] - grid[0]), 0.0, len(grid) - 1.0)
            lower = np.minimum(position.astype(int), len(grid) - 2)
            share = position - lower
            table = self.effects[row]
            left[having] -= (1.0 - share) * table[lower, having] + share * table[lower + 1, having]
        return left

    def loss(self, values: Floats) -> float:
        """Negative log posterior: pseudo-Huber errors, normal priors."""
        size = self.residuals(values) / NOISE
        is_root = self.parents == np.arange(len(values))
        centres = np.where(is_root, self.priors, values[self.parents])
        prior = 0.5 * np.sum(((values - centres) / self.prior_spreads) ** 2)
        return float(np.sum(self.weights * (np.sqrt(1.0 + size**2) - 1.0)) + prior)

    def spreads(self, values: Floats) -> Floats:
        """Standard deviations of the slots, from the curvature of the loss at its least."""
        step = 0.02
        num = len(values)
        curvature = np.zeros((num, num))
        unit = np.eye(num) * step
        for row in range(num):
            for column in range(row, num):
                signs = [self.loss(values + a * unit[row] + b * unit[column]) * a * b for a in (1, -1) for b in (1, -1)]
                curvature[row, column] = curvature[column, row] = sum(signs) / (4.0 * step**2)
        return np.sqrt(np.clip(np.diag(np.linalg.pinv(curvature)), 0.0, None))
