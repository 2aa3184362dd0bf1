"""Plots of priced steps: how sure their times are, what their time goes to, and what the device holds."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from meshwise.report.style import BLUE, COLOURS, FAINT, GREEN, INDIGO, INK, ORANGE, PART_COLOURS, SAND, WIDTH_INCHES
from planner.breakdown import PARTS, Breakdown
from planner.choose.explain import PART_WORDS, duration
from planner.cost.memory import MemoryBreakdown
from profiles.units import GIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES, MARGIN_INCHES = 0.34, 1.15
_READINGS = {"estimated": (BLUE, "<"), "simulated": (ORANGE, ">"), "measured": (GREEN, "o")}


def rows_figure(num_rows: int, more_inches: float = 0.0) -> "tuple[Figure, Axes]":
    """An empty plot with a row for each of several things, the first on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, MARGIN_INCHES + more_inches + ROW_INCHES * num_rows), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def draw_ranges(
    names: Sequence[str], seconds: Sequence[float], low_seconds: Sequence[float], high_seconds: Sequence[float],
    level_fraction: float,
) -> "Figure":  # fmt: skip
    """One row a plan: its predicted step and the range around it."""
    figure, axes = rows_figure(len(names))
    rows = np.arange(len(names))
    axes.hlines(rows, low_seconds, high_seconds, color=BLUE, linewidth=5.0, alpha=0.35)
    axes.plot(seconds, rows, "o", color=BLUE, markersize=6.0)
    for row, at in enumerate(seconds):
        axes.annotate(duration(at), (at, row), (0, 5), textcoords="offset points", ha="center", fontsize=7.5)
    axes.set_yticks(rows, names)
    axes.set_xlim(0.9 * min(low_seconds), 1.03 * max(high_seconds))
    axes.set_xlabel(f"step (seconds); bars: {level_fraction:.0%} range")
    return figure


def draw_parts(
    names: Sequence[str], breakdowns: Sequence[Breakdown], low_seconds: Sequence[float], high_seconds: Sequence[float]
) -> "Figure":
    """One bar a plan, of the parts of its step, and the range around their sum."""
    shown = [part for part in PARTS if any(float(one.parts()[part]) > 0.0 for one in breakdowns)]
    figure, axes = rows_figure(len(names), 0.5)
    _stacks(axes, [{part: float(one.parts()[part]) for part in shown} for one in breakdowns], PART_COLOURS)
    wholes = np.array([float(one.step_seconds) for one in breakdowns])
    ends = np.abs(np.array([low_seconds, high_seconds]) - wholes)
    axes.errorbar(wholes, range(len(names)), xerr=ends, fmt="none", ecolor=INK, elinewidth=1.0, capsize=3.0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("step (seconds), with the range around it")
    _legend(figure, {PART_WORDS[part]: PART_COLOURS[part] for part in shown})
    return figure


def draw_memory(
    names: Sequence[str], memories: Sequence[MemoryBreakdown], usable_bytes: float, capacity_bytes: float
) -> "Figure":
    """One bar a plan (or stage), of what the device holds, beside what it may and can hold."""
    parts = [name for name in memories[0].parts() if any(float(one.parts()[name]) > 0.0 for one in memories)]
    colours = dict(zip(parts, cycle((*COLOURS, INDIGO, SAND)), strict=False))
    figure, axes = rows_figure(len(names), 0.5)
    _stacks(axes, [{name: float(one.parts()[name]) / GIB for name in parts} for one in memories], colours)
    for limit, words, style, side in (
        (usable_bytes, "usable ", "--", "right"), (capacity_bytes, " capacity", "-", "left"),
    ):  # fmt: skip
        axes.axvline(limit / GIB, color=INK, linewidth=1.0, linestyle=style)
        axes.annotate(words, (limit / GIB, -0.6), ha=side, va="bottom", fontsize=7.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("memory of the fullest device (GiB)" if len(names) > 1 else "memory (GiB)")
    _legend(figure, colours)
    return figure


def draw_side_by_side(readings: Mapping[str, Breakdown]) -> "Figure":
    """Parts of one step by what was estimated, simulated and measured: one marker each."""
    parts = [part for part in PARTS if any(float(one.parts()[part]) > 0.0 for one in readings.values())]
    figure, axes = rows_figure(len(parts), 0.2)
    shifts = np.linspace(-0.2, 0.2, len(readings))
    for shift, (name, breakdown) in zip(shifts, readings.items(), strict=True):
        colour, marker = _READINGS[name]
        seconds = np.array([float(breakdown.parts()[part]) for part in parts])
        rows = np.arange(len(parts)) + shift
        axes.hlines(rows, 0.0, seconds, color=colour, linewidth=1.6, alpha=0.6)
        axes.plot(seconds, rows, marker, color=colour, label=name, markersize=5.5)
    axes.set_yticks(range(len(parts)), [PART_WORDS[part] for part in parts])
    axes.set_xlim(left=0.0)
    axes.set_xlabel("seconds of a step")
    figure.legend(loc="outside lower center", ncols=len(readings))
    return figure


def draw_changes(names: Sequence[str], fractions: Sequence[float], others: Sequence[float | None]) -> "Figure":
    """A tornado: the change of a step with more of each resource, of a plan and of the best plan."""
    figure, axes = rows_figure(len(names), 0.2)
    rows = np.arange(len(names))
    axes.barh(rows - 0.18, [100.0 * one for one in fractions], height=0.34, color=BLUE, label="this plan")
    best = [100.0 * (one or 0.0) for one in others]
    axes.barh(rows + 0.18, best, height=0.34, color=ORANGE, label="the best plan, searched again")
    axes.axvline(0.0, color=FAINT, linewidth=0.8)
    axes.set_yticks(rows, names)
    axes.set_xlabel("change of the step (%); negative is faster")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _stacks(axes: "Axes", rows: Sequence[Mapping[str, float]], colours: Mapping[str, str]) -> None:
    reached = np.zeros(len(rows))
    for name in rows[0]:
        lengths = np.array([row[name] for row in rows])
        axes.barh(np.arange(len(rows)), lengths, left=reached, height=0.66, color=colours[name],
                  edgecolor="white", linewidth=0.3)  # fmt: skip
        reached += lengths


def _legend(figure: "Figure", colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
