"""Plots of scaling: throughput by number of devices, with error bars and the line without loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.style import BLUE, FAINT, WIDTH_INCHES, plain_decades

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_scaling(counts: Sequence[int], rates: Sequence[Sequence[float]]) -> "Figure":
    """Rates are (best guess, low, high) a second on each number of devices; below them efficiency over the first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    x, y = np.array(counts, dtype=np.float64), np.array(rates, dtype=np.float64)
    ideal = y[0, 0] * x / x[0]
    upper.plot(x, ideal, color=FAINT, linewidth=1.0, linestyle="--", label="without loss")
    for axes, values in ((upper, y), (lower, 100.0 * y / ideal[:, None])):
        ends = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(x, values[:, 0], yerr=ends, fmt="o-", color=BLUE, elinewidth=1.0, capsize=3.0, label="best plan")
        axes.set_xscale("log", base=2)
    upper.set_yscale("log")
    plain_decades(upper.yaxis)
    upper.set_ylabel("items a second")
    upper.legend(loc="upper left")
    lower.axhline(100.0, color=FAINT, linewidth=1.0, linestyle="--")
    lower.set_ylim(bottom=0.0)
    lower.set_ylabel("efficiency (%)")
    lower.set_xlabel("devices")
    lower.set_xticks(x, labels=[f"{count:,}" for count in counts])
    lower.minorticks_off()
    return figure
