"""A picture of predicted against measured steps: every run, coloured by source, with the error bars around them.

matplotlib is imported when a picture is drawn, and only through its objects: no window, no global state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from validate.score.training import Scored, source_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#EE7733", "#004488", "#994455",
    "#117733", "#332288", "#999933",
)  # fmt: skip
"""Apart from one another for colour-blind readers too [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""
_MARKERS = "osD^v"
_FARTHEST_RATIO = 3.0
"""Runs that miss by more than this factor are drawn at the edge of the lower panel."""

Floats = NDArray[np.float64]


def draw_scatter(scored: Sequence[Scored]) -> "Figure":
    """Measured over predicted seconds, and below it their ratio, where errors of some percent can be seen.

    Both share the axis of predicted seconds. The thin vertical lines are the error bars of single runs. Raises
    ValueError when no run has a step time.
    """
    from matplotlib.figure import Figure

    timed = [row for row in scored if row.measured_seconds is not None]
    if not timed:
        raise ValueError("--plot: no run of the table has a step time that can be predicted")
    figure = Figure(figsize=(8.0, 9.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    predicted = np.array([row.predicted_seconds for row in timed])
    measured = np.array([row.measured_seconds for row in timed], dtype=float)
    bars = [row.interval for row in timed]
    low, high = (np.array([float(getattr(bar, name)) for bar in bars]) for name in ("low_seconds", "high_seconds"))
    ends = np.array([min(predicted.min(), measured.min()) / 1.5, max(predicted.max(), measured.max()) * 1.5])
    upper.plot(ends, ends, color="black", linewidth=0.8, zorder=1)
    lower.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    upper.vlines(predicted, low, high, color="#DDDDDD", linewidth=0.7, zorder=0)
    lower.vlines(predicted, low / predicted, high / predicted, color="#DDDDDD", linewidth=0.7, zorder=0)
    sources = [source_of(row.run) for row in timed]
    for number, source in enumerate(dict.fromkeys(sources)):
        own = np.array([name == source for name in sources])
        style = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        _points(upper, predicted[own], measured[own], f"{source} ({int(own.sum())})", style)
        ratio = np.clip(measured[own] / predicted[own], 1.0 / _FARTHEST_RATIO, _FARTHEST_RATIO)
        _points(lower, predicted[own], ratio, "", style)
    _label(upper, lower, ends, f"{bars[0].level_fraction:.0%}")
    return figure


def _points(axes: "Axes", predicted: Floats, measured: Floats, label: str, style: dict[str, Any]) -> None:
    axes.plot(
        predicted, measured, linestyle="none", markersize=4.0, markeredgewidth=0.0, alpha=0.75, label=label or "_",
        **style,
    )  # fmt: skip


def _label(upper: "Axes", lower: "Axes", ends: Floats, level: str) -> None:
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_xlim(*ends)
    upper.set_ylim(*ends)
    upper.set_ylabel("measured step, s")
    upper.legend(fontsize=8, frameon=False, loc="upper left", title=f"source (runs); grey: {level} error bars",
                 title_fontsize=8)  # fmt: skip
    lower.set_ylim(1.0 / _FARTHEST_RATIO, _FARTHEST_RATIO)
    ticks = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
    lower.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    lower.set_yticks([], minor=True)
    lower.grid(axis="y", color="#EEEEEE", linewidth=0.6, zorder=-1)
    lower.set_ylabel("measured over predicted")
    lower.set_xlabel("predicted step, s")


def save_scatter(scored: Sequence[Scored], path: Path) -> None:
    """Write the picture; its ending says the format."""
    draw_scatter(scored).savefig(path, dpi=150)
