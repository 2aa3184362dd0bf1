"""A picture of a sweep: estimated, simulated and measured step of every plan, with the range of its launches."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.sweep.outcome import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"estimated": "#4477AA", "simulated": "#EE6677", "measured": "#228833"}
_OFFSET = 0.22
_ROW_INCHES, _MARGIN_INCHES = 0.45, 1.4
_DOTS_PER_INCH = 150


def draw_sweep(found: Sweep) -> "Figure":
    """One row a plan, fastest measured on top; the grey line is one rank. Raises ValueError without any plan."""
    from matplotlib.figure import Figure

    if not found.outcomes:
        raise ValueError("--plot: no plan was measured")
    rows = sorted(found.outcomes, key=lambda outcome: outcome.measured.step_seconds)
    figure = Figure(figsize=(9.0, _MARGIN_INCHES + _ROW_INCHES * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    steps = {
        "estimated": [float(row.estimated.step_seconds) for row in rows],
        "simulated": [float(row.simulated.step_seconds) for row in rows],
        "measured": [row.measured.step_seconds for row in rows],
    }
    for (name, seconds), marker, shift in zip(steps.items(), "<>o", (-_OFFSET, _OFFSET, 0.0), strict=True):
        axes.plot(seconds, places + shift, marker, color=_COLOURS[name], label=name)
    ranges = np.array([row.measured.range_seconds for row in rows])
    axes.hlines(places, ranges[:, 0], ranges[:, 1], color=_COLOURS["measured"], linewidth=2.0, alpha=0.5)
    axes.axvline(found.alone.measured.step_seconds, color="#777777", linewidth=0.8, label="one rank, measured")
    axes.set_yticks(places, [str(row.plan) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("step (seconds)")
    axes.legend(loc="best", frameon=False)
    return figure


def save_sweep(found: Sweep, path: Path) -> None:
    """Write the picture to a file of the format that its name ends in."""
    draw_sweep(found).savefig(path, dpi=_DOTS_PER_INCH)
