"""Plots of what was measured: every timed step of every launch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.figures.steps import rows_figure
from meshwise.report.style import GREEN, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_launches(steps: Mapping[str, Sequence[float]]) -> "Figure":
    """One row a launch: its steps as dots, their median as a bar."""
    figure, axes = rows_figure(len(steps))
    for row, seconds in enumerate(steps.values()):
        axes.plot(seconds, np.full(len(seconds), row), "o", color=GREEN, markersize=4.0, alpha=0.6)
        axes.plot([float(np.median(seconds))], [row], "|", color=ORANGE, markersize=16.0, markeredgewidth=2.0)
    axes.set_yticks(range(len(steps)), list(steps))
    axes.set_xlim(left=0.0)
    axes.set_xlabel("step (seconds)")
    return figure
