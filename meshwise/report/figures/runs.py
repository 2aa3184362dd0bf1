"""Plots of many runs: shares with their ranges, and how often a step of each length was drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meshwise.report.figures.steps import rows_figure
from meshwise.report.style import BLUE, INK, ORANGE, WIDTH_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def draw_shares(names: Sequence[str], spreads: Sequence[tuple[float, float, float]]) -> "Figure":
    """One bar a share: (mean, low, high), as fractions."""
    figure, axes = rows_figure(len(names))
    values = 100.0 * np.array(spreads)
    axes.barh(range(len(names)), values[:, 0], color=BLUE, height=0.6)
    ends = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(values[:, 0], range(len(names)), xerr=ends, fmt="none", ecolor=INK, elinewidth=1.0, capsize=3.0)
    for row, (mean, _, high) in enumerate(values):
        axes.annotate(f"{mean:.1f} %", (high, row), (5, 0), textcoords="offset points", va="center", fontsize=8.0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0.0, 112.0)
    axes.set_xlabel("share of the time (%)")
    return figure


def draw_draws(seconds: Floats) -> "Figure":
    """A histogram of drawn steps, with their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(seconds, bins="auto", color=BLUE)
    axes.axvline(float(seconds.mean()), color=ORANGE, linewidth=1.5, label="mean")
    axes.set_xlabel("step (seconds)")
    axes.set_ylabel("draws")
    axes.legend()
    return figure
