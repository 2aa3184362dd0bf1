"""A picture of a simulation of serving: arrivals and answers, queues, and memory over time.

matplotlib is imported when a picture is drawn, and only through its objects: no window, no global state.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from profiles.units import HOUR, MINUTE
from simulator.serving.requests import Floats
from simulator.serving.result import Played
from simulator.serving.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_BINS = 240
BLUE, ORANGE, GREY, RED = "#4477AA", "#EE7733", "#BBBBBB", "#CC3311"
"""Apart from one another for colour-blind readers too [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""


def draw_serving(
    played: Played, timeline: Timeline, *, title: str = "", limit_seconds: float | None = None
) -> "Figure":
    """The picture as a matplotlib Figure; `limit_seconds` is the target of the time to first token, if there is one.

    Raises ValueError where no request was answered.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 9.0), layout="constrained")
    rates, waits, queues, memory = figure.subplots(4, 1, sharex=True)
    counted = played.counted
    if not counted.any():
        raise ValueError("gantt: no request was answered, so that there is nothing to draw")
    begin, end = played.arrival_seconds[counted].min(), played.last_token_seconds[counted].max()
    edges = np.linspace(begin, end, NUM_BINS + 1)
    unit_seconds, unit = next(pair for pair in ((HOUR, "h"), (MINUTE, "min"), (0.0, "s")) if end - begin >= 3 * pair[0])
    shown = (edges - begin) / (unit_seconds or 1.0)
    _rates(rates, played, edges, shown)
    _waits(waits, played, edges, shown, limit_seconds)
    loops = sorted(timeline.samples)
    middle = shown[1:]
    for column, name, colour in ((2, "running", BLUE), (1, "waiting", ORANGE)):
        queues.plot(middle, timeline.column(column, loops, edges[1:]).sum(axis=0), color=colour, label=name, lw=1.2)
    queues.set_ylabel("requests")
    used = 100.0 * timeline.column(3, loops, edges[1:])
    memory.fill_between(
        middle, used.min(axis=0), used.max(axis=0), color=GREY, label="least and most used replica", lw=0
    )
    memory.plot(middle, used.mean(axis=0), color=BLUE, label="mean of replicas", lw=1.2)
    memory.set_ylabel("KV memory in use (%)")
    memory.set_ylim(0.0, 105.0)
    memory.set_xlabel(f"time ({unit})")
    for axes in (rates, waits, queues, memory):
        axes.legend(loc="upper right", fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0.0, float(shown[-1]))
    rates.set_title(title, loc="left", fontsize=10)
    return figure


def _rates(axes: "Axes", played: Played, edges: Floats, shown: Floats) -> None:
    width = float(np.diff(edges)[0])
    for times, name, colour in ((played.arrival_seconds, "arrive", GREY), (played.last_token_seconds, "done", BLUE)):
        count = np.histogram(times[np.isfinite(times)], edges)[0] / width
        axes.step(shown[1:], count, where="pre", color=colour, label=name, lw=1.2)
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0.0)


def _waits(axes: "Axes", played: Played, edges: Floats, shown: Floats, limit_seconds: float | None) -> None:
    """Time to first token of requests by when they arrived: one dot each, of many an even choice."""
    answered = np.flatnonzero(played.counted)
    chosen = answered[:: max(1, len(answered) // 8000)]
    at = np.interp(played.arrival_seconds[chosen], edges, shown)
    axes.plot(at, np.maximum(played.ttft_seconds[chosen], 1e-4), ".", ms=1.5, color=BLUE, label="time to first token")
    if limit_seconds is not None:
        axes.axhline(limit_seconds, color=RED, lw=1.0, label="target")
    axes.set_yscale("log")
    axes.set_ylabel("wait (s)")


def save_serving(
    played: Played, timeline: Timeline, path: str | Path, *, title: str = "", limit_seconds: float | None = None
) -> None:
    """Write the picture; the file's ending says the format (png, svg, pdf)."""
    draw_serving(played, timeline, title=title, limit_seconds=limit_seconds).savefig(path, dpi=130)
