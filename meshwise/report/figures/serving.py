"""Plots of serving: times with their error bars, fronts of rates, and how waits are distributed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meshwise.report.figures.steps import rows_figure
from meshwise.report.style import BLUE, COLOURS, FAINT, INK, RED, WIDTH_INCHES, plain_decades
from planner.choose.explain import duration
from profiles.engine import EngineRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
_MOST_POINTS = 400


def draw_times(engine: EngineRecord, times: Sequence[tuple[str, float, str]]) -> "Figure":
    """(name, seconds, metric) one a row, on a logarithmic axis, with the range of nine in ten measurements."""
    figure, axes = rows_figure(len(times))
    for row, (_, seconds, metric) in enumerate(times):
        if not np.isfinite(seconds) or seconds <= 0.0:
            axes.annotate("never", (0.02, row), xycoords=("axes fraction", "data"), va="center")
            continue
        if engine.fit is not None:
            axes.hlines(row, *engine.fit.interval(seconds, metric), color=BLUE, linewidth=5.0, alpha=0.35)
        axes.plot(seconds, row, "o", color=BLUE)
        axes.annotate(duration(seconds), (seconds, row), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
    axes.set_xscale("log")
    plain_decades(axes.xaxis)
    axes.set_yticks(range(len(times)), [name for name, _, _ in times])
    axes.set_xlabel("seconds")
    return figure


def draw_rates(per_user: Sequence[float], per_device: Sequence[float], num_devices: Sequence[int]) -> "Figure":
    """The front of tokens a second of a user against those of a device; colour says how many devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(per_user, per_device, color=BLUE, linewidth=1.0, alpha=0.5)
    sizes = sorted(set(num_devices))
    for number, size in enumerate(sizes):
        own = [index for index, one in enumerate(num_devices) if one == size]
        axes.plot([per_user[index] for index in own], [per_device[index] for index in own], "osD^v"[number % 5],
                  color=COLOURS[number % len(COLOURS)], label=f"{size:,}", markersize=5.0)  # fmt: skip
    axes.set_xlabel("tokens a second of one user")
    axes.set_ylabel("tokens a second of one device")
    axes.set_ylim(bottom=0.0)
    axes.legend(title="devices", ncols=max(1, len(sizes) // 8))
    return figure


def draw_waits(waits: Sequence[tuple[str, Floats, float | None]]) -> "Figure":
    """Of each (name, seconds of all requests, target): the share of requests that waited at most so long."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 3.4), layout="constrained")
    for axes, (name, seconds, limit) in zip(np.ravel(figure.subplots(1, len(waits), sharey=True)), waits, strict=True):
        _draw_shares_below(axes, seconds, limit)
        axes.set_xlabel(f"{name} (seconds)")
    figure.axes[0].set_ylabel("requests that wait at most so long (%)")
    return figure


def _draw_shares_below(axes: "Axes", seconds: Floats, limit: float | None) -> None:
    found = np.sort(seconds[np.isfinite(seconds) & (seconds > 0.0)])
    if len(found):
        shares = np.linspace(0.0, 1.0, min(len(found), _MOST_POINTS))
        axes.plot(np.quantile(found, shares), 100.0 * shares, color=BLUE)
        axes.set_xscale("log")
        plain_decades(axes.xaxis)
    if limit is not None:
        axes.axvline(limit, color=RED, linewidth=1.0)
        axes.annotate(" target", (limit, 2.0), fontsize=7.5, color=INK)
    axes.set_ylim(0.0, 101.0)


def draw_errors(errors: Mapping[str, tuple[float, float]]) -> "Figure":
    """One row a figure: its error at predicted prices, and at the load's own."""
    figure, axes = rows_figure(len(errors), 0.2)
    rows = np.arange(len(errors))
    values = 100.0 * np.array(list(errors.values()))
    for shift, index, colour, name in ((-0.18, 0, BLUE, "predicted"), (0.18, 1, COLOURS[1], "at own prices")):
        axes.barh(rows + shift, values[:, index], height=0.34, color=colour, label=name)
    axes.axvline(0.0, color=FAINT, linewidth=0.8)
    axes.set_yticks(rows, list(errors))
    axes.set_xlabel("error (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
