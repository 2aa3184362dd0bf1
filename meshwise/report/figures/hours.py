"""Plots of serving by the hour: the load and the replicas that answer it, and what offers cost a day."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meshwise.report.figures.steps import rows_figure
from meshwise.report.style import BLUE, COLOURS, ORANGE, WIDTH_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def draw_hours(requests_per_second: Floats, num_replicas: Sequence[Floats]) -> "Figure":
    """Requests a second of each hour, and below them the replicas of each kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    edges = np.arange(len(requests_per_second) + 1)
    upper.stairs(requests_per_second, edges, color=ORANGE, fill=True, alpha=0.5)
    upper.set_ylabel("requests/s")
    for number, each in enumerate(num_replicas, start=1):
        lower.stairs(np.broadcast_to(each, len(edges) - 1), edges, color=COLOURS[number - 1], linewidth=1.8,
                     label=f"kind {number}")  # fmt: skip
    if len(num_replicas) > 1:
        lower.legend()
    for axes in (upper, lower):
        axes.set_ylim(bottom=0.0)
    lower.set_ylabel("replicas")
    lower.set_xlabel("hour")
    return figure


def draw_daily(names: Sequence[str], dollars: Sequence[tuple[float, float, float]]) -> "Figure":
    """One row an offer: dollars a day with their range."""
    figure, axes = rows_figure(len(names))
    values = np.array(dollars)
    axes.hlines(range(len(names)), values[:, 1], values[:, 2], color=BLUE, linewidth=5.0, alpha=0.35)
    axes.plot(values[:, 0], range(len(names)), "o", color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("dollars a day, with their range")
    return figure
