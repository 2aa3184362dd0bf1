"""A picture of a played step: one row a pipeline rank, compute above, messages on a thin line below it.

matplotlib is imported when a picture is drawn, and only through its objects: no window, no global state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.plan import AXES
from planner.work.actions import Kind
from profiles.units import MICRO, MILLI
from simulator.engine import Simulation
from simulator.trace import Prices, Stream, Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

COLOURS: Mapping[str, str] = {
    "forward": "#4477AA",
    "backward": "#EE7733",
    "recompute": "#DDCC77",
    "optimizer": "#228833",
    "communication": "#AA3377",
    "host": "#666666",
    "idle": "#ECECEC",
}
"""Apart from one another for colour-blind readers too [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""

_GROUPS = dict.fromkeys(AXES, "communication")
_FIRST_PARTS = ("recompute",)
"""Parts drawn at the start of their action; the rest follow in the order of the price."""

_COMPUTE_ROW = (0.10, 0.62)
"""Offset and height of the compute bar in a row of height 1; messages that block compute share it."""
_NETWORK_ROWS = {Stream.PP_SEND: (0.74, 0.07), Stream.PP_RECEIVE: (0.82, 0.07), Stream.DP: (0.90, 0.07)}
_NUMBER_POINTS = 6.5
"""Size of the microbatch numbers; a digit takes 0.65 of it."""
_SMALLEST_BAR_POINTS = 4.0
"""Compute bars narrower than this are blended into a strip of _BLENDED_COLUMNS columns."""
_BLENDED_COLUMNS = 2400
_THINNEST_MESSAGE_POINTS = 0.7
"""Messages are drawn at least this wide; narrower ones would come and go with the pixels."""


def draw_gantt(simulation: Simulation, *, title: str = "", width_inches: float = 14.0) -> "Figure":
    """The picture as a matplotlib Figure.

    Microbatch numbers stand in the bars that are wide enough for them. Later chunks of an interleaved rank are
    lighter.
    """
    from matplotlib.figure import Figure

    num_ranks = len(simulation.program.ranks)
    row_inches = float(np.clip(9.0 / num_ranks, 0.14, 0.55))
    figure = Figure(figsize=(width_inches, 1.5 + row_inches * num_ranks), layout="constrained")
    axes = figure.add_subplot()
    unit_seconds, unit = _time_unit(simulation.step_seconds)
    span = simulation.step_seconds / unit_seconds or 1.0
    points_per_unit = 72.0 * (width_inches - 1.0) / span
    numbers_fit = 72.0 * row_inches * _COMPUTE_ROW[1] >= 1.5 * _NUMBER_POINTS
    for rank in range(num_ranks):
        axes.broken_barh([(0.0, span)], (rank + _COMPUTE_ROW[0], _COMPUTE_ROW[1]), facecolors=COLOURS["idle"])
    for track in simulation.tracks:
        _draw_track(axes, track, simulation, unit_seconds, points_per_unit)
        if track.stream is Stream.COMPUTE and numbers_fit:
            _number(axes, track, simulation, unit_seconds, points_per_unit)
    _dress(axes, simulation, span, unit, title, row_inches)
    _legend(figure, simulation)
    return figure


def save_gantt(simulation: Simulation, path: str | Path, *, title: str = "", dots_per_inch: int = 130) -> None:
    """Write the picture; the file's ending says the format (png, svg, pdf).

    Raises ValueError for an ending that matplotlib cannot write.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        endings = ", ".join("." + ending for ending in sorted(known))
        raise ValueError(f"gantt: {path.name} has no ending of a picture; use one of {endings}")
    draw_gantt(simulation, title=title).savefig(path, dpi=dots_per_inch)


Colour = tuple[float, float, float]
Bars = tuple[Colour, Floats, Floats]
"""A colour, and the starts and ends of its bars."""


def _draw_track(
    axes: "Axes", track: Track, simulation: Simulation, unit_seconds: float, points_per_unit: float
) -> None:
    bars = _track_bars(track, simulation, unit_seconds)
    is_compute = track.stream is Stream.COMPUTE
    place = _NETWORK_ROWS.get(track.stream, _COMPUTE_ROW)
    width = float(np.median(track.end_seconds - track.start_seconds)) / unit_seconds * points_per_unit
    if is_compute and width < _SMALLEST_BAR_POINTS:
        _draw_blended(axes, bars, track.rank, place, simulation.step_seconds / unit_seconds)
        return
    for colour, starts, ends in bars:
        if place is not _COMPUTE_ROW:
            ends = np.maximum(ends, starts + _THINNEST_MESSAGE_POINTS / points_per_unit)
        _draw_bars(axes, starts, ends, track.rank, place, colour, width >= _SMALLEST_BAR_POINTS)


def _track_bars(track: Track, simulation: Simulation, unit_seconds: float) -> list[Bars]:
    """Bars of a track; those of compute by action and part."""
    starts, lengths = track.start_seconds / unit_seconds, (track.end_seconds - track.start_seconds) / unit_seconds
    if track.stream is not Stream.COMPUTE:
        return [(_colour("communication", 0, simulation), starts, starts + lengths)]
    bars: list[Bars] = []
    keys = [(track.actions[index].kind, track.actions[index].chunk) for index in track.index.tolist()]
    for key in dict.fromkeys(keys):
        rows = np.array([other == key for other in keys])
        for group, low, high in _pieces(simulation.prices[key].parts()):
            begin, length = starts[rows] + low * lengths[rows], (high - low) * lengths[rows]
            bars.append((_colour(group, key[1], simulation), begin, begin + length))
    return bars


def _colour(group: str, chunk: int, simulation: Simulation) -> Colour:
    """The colour of a group; compute of later chunks is mixed with white."""
    from matplotlib.colors import to_rgb

    plan = simulation.program.plan
    white = 0.0 if group == "communication" else 0.5 * (chunk // plan.pp) / max(plan.vp - 1, 1)
    red, green, blue = (channel + (1.0 - channel) * white for channel in to_rgb(COLOURS[group]))
    return red, green, blue


def _pieces(parts: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(colour group, from, to) of an action's parts as fractions of it; neighbours of one group are joined."""
    total = sum(parts.values())
    first = {part: seconds for part, seconds in parts.items() if part in _FIRST_PARTS}
    groups: dict[str, float] = {}
    for part, seconds in (first | dict(parts)).items():
        group = _GROUPS.get(part, part)
        groups[group] = groups.get(group, 0.0) + seconds / total
    edges = np.cumsum([0.0, *groups.values()]).tolist()
    return [(group, low, high) for group, low, high in zip(groups, edges, edges[1:], strict=False) if high > low]


def _draw_bars(
    axes: "Axes", starts: Floats, ends: Floats, rank: int, place: tuple[float, float], colour: Colour, is_edged: bool
) -> None:
    """Add bars to the row of `rank`, at `place` (offset and height in the row); wide ones have a white edge."""
    from matplotlib.collections import PolyCollection

    low = np.full_like(starts, rank + place[0])
    top = low + place[1]
    corners: Any = np.stack([starts, low, ends, low, ends, top, starts, top], axis=-1).reshape(-1, 4, 2)
    edge = 0.3 if is_edged else 0.0
    bars = PolyCollection(corners, facecolors=[colour], edgecolors="white", linewidths=edge)
    axes.add_collection(bars, autolim=False)


def _draw_blended(axes: "Axes", bars: Sequence[Bars], rank: int, place: tuple[float, float], span: float) -> None:
    """One strip for bars too narrow to be seen: each column has the mean colour of the time it covers."""
    from matplotlib.colors import to_rgb

    edges = np.linspace(0.0, span, _BLENDED_COLUMNS + 1)
    idle = np.array(to_rgb(COLOURS["idle"]))
    strip = np.tile(idle, (_BLENDED_COLUMNS, 1))
    for colour, starts, ends in bars:
        corners = np.stack([starts, ends], axis=-1).ravel()
        covered = np.cumsum(np.stack([np.zeros_like(starts), ends - starts], axis=-1).ravel())
        share = np.diff(np.interp(edges, corners, covered)) / np.diff(edges)
        strip += share[:, None] * (np.array(colour) - idle)
    bottom, top = rank + place[0], rank + place[0] + place[1]
    axes.imshow(
        np.clip(strip, 0.0, 1.0)[None],
        extent=(0.0, span, top, bottom),
        aspect="auto",
        interpolation="antialiased",
        zorder=1.5,
    )


def _number(axes: "Axes", track: Track, simulation: Simulation, unit_seconds: float, points_per_unit: float) -> None:
    """Write microbatches into the forwards or backwards of `track`, into all of a kind and chunk or into none."""
    digits = len(str(simulation.program.num_microbatches - 1))
    smallest = 0.65 * _NUMBER_POINTS * (digits + 0.4) / points_per_unit * unit_seconds
    middle = track.rank + _COMPUTE_ROW[0] + _COMPUTE_ROW[1] / 2.0
    for action, start, end in track.spans():
        if action.microbatch >= 0 and end - start >= smallest:
            group = "forward" if action.kind is Kind.FORWARD else "backward"
            is_light = sum(_colour(group, action.chunk, simulation)) > 1.9
            axes.text(
                (start + end) / 2.0 / unit_seconds, middle, str(action.microbatch), ha="center", va="center",
                fontsize=_NUMBER_POINTS, color="#333333" if is_light else "white",
            )  # fmt: skip


def _dress(axes: "Axes", simulation: Simulation, span: float, unit: str, title: str, row_inches: float) -> None:
    num_ranks = len(simulation.program.ranks)
    axes.set_xlim(0.0, span)
    axes.set_ylim(num_ranks, 0.0)
    every = max(1, int(np.ceil(0.14 / row_inches)))
    rows = range(0, num_ranks, every)
    axes.set_yticks(
        [rank + _COMPUTE_ROW[0] + _COMPUTE_ROW[1] / 2.0 for rank in rows], [f"rank {rank}" for rank in rows], fontsize=8
    )
    axes.tick_params(axis="y", length=0)
    lighter = "; later chunks are lighter" if simulation.program.plan.vp > 1 else ""
    axes.set_xlabel(f"time ({unit}); thin lines under a rank: pp send, pp receive, dp{lighter}", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    breakdown = simulation.breakdown
    idle = breakdown.idle_seconds / simulation.step_seconds if simulation.step_seconds else 0.0
    facts = f"step {span:.4g} {unit}, {100.0 * idle:.1f} % idle on rank {simulation.busiest_rank}"
    axes.set_title(f"{title}: {facts}" if title else f"{simulation.program.plan}: {facts}", fontsize=10, loc="left")


def _legend(figure: "Figure", simulation: Simulation) -> None:
    from matplotlib.patches import Patch

    shown = {"idle", *_shown_groups(simulation.tracks, simulation.prices)}
    handles = [Patch(facecolor=colour, label=group) for group, colour in COLOURS.items() if group in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _shown_groups(tracks: Sequence[Track], prices: Prices) -> set[str]:
    """Colour groups that occur anywhere in the picture."""
    keys: set[tuple[Kind, int]] = set()
    for track in tracks:
        played = {track.actions[index] for index in set(track.index.tolist())}
        keys |= {(action.kind, action.chunk) for action in played if (action.kind, action.chunk) in prices}
    parts = {part for key in keys for part, seconds in prices[key].parts().items() if seconds > 0.0}
    apart = {"communication"} if any(track.stream is not Stream.COMPUTE for track in tracks) else set()
    return {_GROUPS.get(part, part) for part in parts} | apart


def _time_unit(step_seconds: float) -> tuple[float, str]:
    """The unit in which the step reads well."""
    for seconds, name in ((1.0, "s"), (MILLI, "ms")):
        if step_seconds >= seconds:
            return seconds, name
    return MICRO, "us"
