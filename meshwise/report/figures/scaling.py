"""Plots of scaling: throughput by number of devices, with error bars and the line without loss."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.style import BLUE, COLOURS, FAINT, WIDTH_INCHES, plain_decades

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


def draw_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[tuple[float, float]]]]) -> "Figure":
    """Of each named curve (devices, rates, ends of their error bars): rate a device over that of its fewest devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (counts, rates, ends)) in enumerate(curves.items()):
        ideal = rates[0] / counts[0] * np.array(counts) / 100.0
        y, (low, high) = np.array(rates) / ideal, np.array(ends).T / ideal
        axes.errorbar(counts, y, yerr=np.abs(np.array([low, high]) - y), fmt="osD^v"[number % 5] + "-",
                      color=COLOURS[number % len(COLOURS)], elinewidth=0.9, capsize=2.5, markersize=4.5,
                      label=name)  # fmt: skip
    axes.axhline(100.0, color=FAINT, linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    shown = sorted({count for counts, _, _ in curves.values() for count in counts})
    axes.set_xticks(shown, labels=[f"{count:,}" for count in shown])
    axes.minorticks_off()
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("devices")
    axes.set_ylabel("tokens/s a device, % of the first")
    figure.legend(loc="outside lower center", ncols=4)
    return figure
