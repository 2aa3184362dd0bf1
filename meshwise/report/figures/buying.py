"""Plots of what to buy or rent: cost against time with both error bars, days against a deadline, bills by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.figures.steps import rows_figure
from meshwise.report.style import BLUE, COLOURS, FAINT, INDIGO, INK, RED, SAND, WIDTH_INCHES, WINE, plain_decades
from profiles.units import MEGA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FARTHEST_FACTOR = 8.0
"""Runs that take so many times the deadline, or more, are left out of the plot."""
MARKERS = "osD^vP*X"


@dataclass(frozen=True, slots=True)
class Spot:
    """One option in a plot of cost against time; ends of error bars beside each figure."""

    group: str
    """Its accelerator: the colour and the mark."""
    days: tuple[float, float, float]
    """As predicted, low, high."""
    dollars: tuple[float, float, float]
    is_good: bool
    on_front: bool


def draw_choice(spots: Sequence[Spot], deadline_days: float, budget_dollars: float) -> "Figure":
    """Dollars over days. Full marks meet every limit; error bars are of those that no other beats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for number, group in enumerate(sorted({one.group for one in spots})):
        colour, marker = _look(number)
        own = [one for one in spots if one.group == group]
        for is_good in (True, False):
            shown = [one for one in own if one.is_good == is_good]
            axes.plot([one.days[0] for one in shown], [one.dollars[0] / MEGA for one in shown], marker, color=colour,
                      markersize=6.0 if is_good else 4.0, markerfacecolor=colour if is_good else "none",
                      alpha=1.0 if is_good else 0.55, label=group if is_good == (own[0].is_good) else "_")  # fmt: skip
        _bars(axes, [one for one in own if one.on_front and one.is_good], colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_decades(axes.xaxis)
    plain_decades(axes.yaxis)
    if np.isfinite(deadline_days):
        axes.axvline(deadline_days, color=RED, linewidth=1.2)
        axes.set_xlim(right=min(axes.get_xlim()[1], _FARTHEST_FACTOR * deadline_days))
        axes.annotate("deadline ", (deadline_days, 0.99), xycoords=("data", "axes fraction"), ha="right", va="top",
                      fontsize=8.0)  # fmt: skip
    if np.isfinite(budget_dollars):
        axes.axhline(budget_dollars / MEGA, color=RED, linewidth=1.2)
        axes.annotate("budget", (0.01, budget_dollars / MEGA), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=8.0)  # fmt: skip
    axes.set_xlabel("days of the run")
    axes.set_ylabel("cost (millions of dollars)")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _bars(axes: "Axes", spots: Sequence[Spot], colour: str) -> None:
    if not spots:
        return
    days, dollars = (np.array([getattr(one, name) for one in spots]) for name in ("days", "dollars"))
    axes.errorbar(
        days[:, 0], dollars[:, 0] / MEGA, xerr=np.abs(days[:, 1:] - days[:, :1]).T,
        yerr=np.abs(dollars[:, 1:] - dollars[:, :1]).T / MEGA, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.7,
    )  # fmt: skip


def draw_days(
    names: Sequence[str], days: Sequence[tuple[float, float, float]], late_fractions: Sequence[float],
    deadline_days: float,
) -> "Figure":  # fmt: skip
    """One row an option: its days with their range, the deadline, and the chance of missing it."""
    figure, axes = rows_figure(len(names))
    for row, ((guess, low, high), late) in enumerate(zip(days, late_fractions, strict=True)):
        axes.hlines(row, low, high, color=BLUE, linewidth=5.0, alpha=0.35)
        axes.plot(guess, row, "o", color=BLUE)
        words = f"{guess:,.0f} days" + (f", late {100.0 * late:.0f} %" if np.isfinite(deadline_days) else "")
        axes.annotate(words, (high, row), (6, 0), textcoords="offset points", va="center", fontsize=7.5)
    if np.isfinite(deadline_days):
        axes.axvline(deadline_days, color=RED, linewidth=1.2)
    ends = [high for _, _, high in days]
    axes.set_xlim(0.0, 1.3 * max(*ends, deadline_days if np.isfinite(deadline_days) else 0.0))
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("days of the run" + ("; the line is the deadline" if np.isfinite(deadline_days) else ""))
    return figure


def draw_bills(
    names: Sequence[str], bills: Sequence[Mapping[str, float]], ends: Sequence[tuple[float, float]]
) -> "Figure":
    """One bar an option, of the parts of its bill, with the range of their sum."""
    parts = [part for part in bills[0] if any(bill[part] > 0.0 for bill in bills)]
    colours = dict(zip(parts, (*COLOURS, INDIGO, SAND, WINE), strict=False))
    figure, axes = rows_figure(len(names), 0.5)
    reached = np.zeros(len(names))
    for part in parts:
        lengths = np.array([bill[part] / MEGA for bill in bills])
        axes.barh(range(len(names)), lengths, left=reached, color=colours[part], height=0.66, label=part,
                  edgecolor="white", linewidth=0.3)  # fmt: skip
        reached += lengths
    bars = np.abs(np.array(ends).T / MEGA - reached)
    axes.errorbar(reached, range(len(names)), xerr=bars, fmt="none", ecolor=INK, elinewidth=1.0, capsize=3.0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("cost of the run (millions of dollars), with its range")
    figure.legend(loc="outside lower center", ncols=min(6, len(parts)))
    return figure


def draw_tornado(
    names: Sequence[str], dollars: Sequence[tuple[float, float]], usual_dollars: float, marked: Sequence[bool]
) -> "Figure":
    """One row a change: what the choice costs at both ends of it; rows are marked where the choice becomes another."""
    figure, axes = rows_figure(len(names))
    for row, ((low, high), is_marked) in enumerate(zip(dollars, marked, strict=True)):
        left, right = min(low, high, usual_dollars) / MEGA, max(low, high, usual_dollars) / MEGA
        axes.barh(row, right - left, left=left, color=COLOURS[1] if is_marked else BLUE, height=0.6)
    axes.axvline(usual_dollars / MEGA, color=FAINT, linewidth=1.0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("cost of what would then be chosen (millions of dollars); orange: another offer")
    return figure
