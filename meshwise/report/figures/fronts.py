"""Plots of fronts: things that no other beats in both of two figures, with error bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.style import BLUE, WIDTH_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_front(
    across: Sequence[float], up: Sequence[float], low: Sequence[float], high: Sequence[float],
    across_label: str, up_label: str,
) -> "Figure":  # fmt: skip
    """Points joined in the order of `across`; `low` and `high` are the ends of the error bars of `up`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    axes = figure.add_subplot()
    order = np.argsort(across)
    x, y = np.array(across)[order], np.array(up)[order]
    ends = np.abs(np.array([low, high])[:, order] - y)
    axes.errorbar(x, y, yerr=ends, fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.0, capsize=2.5, markersize=5.0)
    axes.step(x, y, where="post", color=BLUE, linewidth=1.0, alpha=0.5)
    axes.set_xlabel(across_label)
    axes.set_ylabel(up_label)
    return figure
