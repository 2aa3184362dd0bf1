"""A picture of a network: devices at the bottom and switches above them, tori and dragonflies as they lie.

matplotlib is imported when a picture is drawn, and only through its objects: no window, no global state.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from profiles.units import GIGA, MICRO, MILLI
from simulator.network.build import Network, Part
from simulator.network.wiring import Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Points = dict[int, tuple[float, float]]

_COLOURS = ("#4477AA", "#EE7733", "#228833", "#AA3377")
"""By tier, inner first [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""
MOST_DEVICES = 256
"""Devices that are drawn; of a larger network the first of them."""


def draw_network(
    network: Network, busy_fraction: Floats | None = None, *, title: str = "", width_inches: float = 12.0
) -> "Figure":
    """The picture as a matplotlib Figure: links coloured by tier, wider where they carry more.

    With `busy_fraction` (links,), the share of a time that each link is in use, a heat map of the busier way of each.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    shown = min(network.num_devices, MOST_DEVICES)
    places = _places(network, shown)
    figure = Figure(figsize=(width_inches, 0.55 * width_inches), layout="constrained")
    axes = figure.add_subplot()
    links = network.links
    inside = np.array([a in places and b in places for a, b in zip(
        links.source.tolist(), links.target.tolist(), strict=True)])  # fmt: skip
    kinds = _kinds(network, np.flatnonzero(inside & (links.source < links.target)))
    for number, (name, rows) in enumerate(kinds.items()):
        rates = links.bytes_per_second[rows]
        lines = [(places[a], places[b]) for a, b in zip(
            links.source[rows].tolist(), links.target[rows].tolist(), strict=True)]  # fmt: skip
        widths = 0.5 + 0.7 * np.log2(1.0 + rates / rates.min())
        label = f"{name}: {_rates(rates)}, {_latency(links.latency_seconds[rows])}"
        drawn = LineCollection(lines, linewidths=widths, alpha=0.6, label=label, zorder=1)
        if busy_fraction is None:
            drawn.set_color(_COLOURS[number % len(_COLOURS)])
        else:
            _heat(drawn, _busier_way(network, busy_fraction)[rows], float(busy_fraction.max(initial=0.0)))
        axes.add_collection(drawn)
    _draw_nodes(axes, network, places)
    hidden = f", the first {shown} of {network.num_devices:,} devices" if shown < network.num_devices else ""
    if busy_fraction is not None:
        figure.colorbar(drawn, ax=axes, format=PercentFormatter(1.0), label="share of the step in use", shrink=0.7)
    about = f"{network.name}: {network.num_devices:,} devices, {len(network.switches):,} switches"
    axes.set_title((title or about) + hidden, loc="left", fontsize=11)
    axes.set_axis_off()
    axes.autoscale()
    axes.margins(0.03, 0.08)
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(kinds), frameon=False, fontsize=9)
    if busy_fraction is not None:
        for line in legend.get_lines():
            line.set_color("#888888")  # the colours are of the load, not of the tiers
    return figure


def _kinds(network: Network, rows: Ints) -> dict[str, Ints]:
    """The links in `rows` by the tier that they belong to: of nested tiers of switches, that of the upper end."""
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        part = network.parts[int(network.part_of[row])]
        name = part.name
        if len(part.tiers) > 1:
            name = re.sub(r"-(leaf|spine)[\d.]+(@\d+)?$", "", network.node_name(int(network.links.target[row])))
        found.setdefault(name, []).append(row)
    return {name: np.array(own) for name, own in found.items()}


def _heat(drawn: "LineCollection", busy_fraction: Floats, most: float) -> None:
    """Colour lines by how busy they are, from pale to dark [Smith 2015, viridis]."""
    drawn.set_cmap("viridis_r")
    drawn.set_clim(0.0, most or 1.0)
    drawn.set_array(busy_fraction)
    drawn.set_alpha(1.0)


def _busier_way(network: Network, busy_fraction: Floats) -> Floats:
    """Of each link, the larger share of its two ways."""
    links = network.links
    of = dict(zip(zip(links.source.tolist(), links.target.tolist(), strict=True), busy_fraction.tolist(), strict=True))
    return np.array([max(of[a, b], of.get((b, a), 0.0)) for a, b in of])


def save_network(
    network: Network, path: str | Path, busy_fraction: Floats | None = None, *, title: str = "",
    dots_per_inch: int = 130,
) -> None:  # fmt: skip
    """Write the picture of `draw_network`; the file's ending says the format."""
    draw_network(network, busy_fraction, title=title).savefig(path, dpi=dots_per_inch)


def _places(network: Network, shown: int) -> Points:
    """Where the devices that are shown are drawn, and the switches that join them: those of nodes below, others above.

    Devices of a mesh stand in a circle, those of a torus along its axes.
    """
    first = network.parts[0]
    places: Points = {}
    for rank in range(shown):
        x, y = _torus_place(first, rank) if first.wiring.axes else (rank + 1.2 * (rank // first.num_devices), 0.0)
        if not first.wiring.axes and not first.wiring.switches and first.num_devices > 2:
            turn = 2.0 * np.pi * (rank % first.num_devices) / first.num_devices
            radius = first.num_devices / 2.6
            x, y = rank // first.num_devices * 1.2 * first.num_devices + radius * np.cos(turn), radius * np.sin(turn)
        places[rank] = (float(x), float(y))
    heights = [y for _, y in places.values()]
    width = max(x for x, _ in places.values()) - min(x for x, _ in places.values()) or 1.0
    for number, part in enumerate(network.parts):
        upward = number > 0 or len(network.parts) == 1
        edge, step = (max(heights), 0.2 * width) if upward else (min(heights), -0.12 * width)
        _place_switches(network, part, places, edge, step)
    return places


def _place_switches(network: Network, part: Part, places: Points, edge: float, step: float) -> None:
    """Each switch over the middle of what it joins, levels of `step` from `edge`; spread out where they would touch."""
    levels = part.wiring.switch_levels or (1,) * len(part.wiring.switches)
    below: dict[int, list[int]] = {}
    for source, target in zip(network.links.source.tolist(), network.links.target.tolist(), strict=True):
        below.setdefault(target, []).append(source)
    for level in range(1, max(levels, default=0) + 1):
        middles: Points = {}
        for group in range(network.num_devices // part.num_devices):
            for index, own in enumerate(levels):
                switch = part.first_switch + group * len(levels) + index
                known = [places[node][0] for node in below.get(switch, ()) if node in places]
                if own == level and known:
                    middles[switch] = (float(np.mean(known)), edge + level * step)
        left, right = (edge_of(x for x, _ in places.values()) for edge_of in (min, max))
        gaps = np.diff(sorted(x for x, _ in middles.values()))
        if len(gaps) and gaps.min() < 0.25 * (right - left) / len(middles):
            for index, switch in enumerate(sorted(middles, key=lambda one: (middles[one][0], one))):
                x = left + (index + 0.5) * (right - left) / len(middles)
                middles[switch] = (x, middles[switch][1])
        if _side_by_side(network, part):
            for switch, (x, y) in middles.items():
                middles[switch] = (x, y + 0.8 * step * float(np.sin(np.pi * (x - left) / (right - left or 1.0))))
        places.update(middles)


def _side_by_side(network: Network, part: Part) -> bool:
    """Whether switches of one level are linked, so that they are drawn on an arc."""
    source, target = part.wiring.links.source, part.wiring.links.target
    return not part.wiring.switch_levels and bool(((source >= part.num_devices) & (target >= part.num_devices)).any())


_DIRECTIONS = ((0.45, 0.35), (0.0, 1.0), (1.0, 0.12), (0.2, -0.3), (-0.3, 0.2), (0.1, 0.1))
"""Of the axes of a torus in the picture."""


def _torus_place(part: Part, rank: int) -> tuple[float, float]:
    group, place = divmod(rank, part.num_devices)
    x, y = 0.0, 0.0
    directions = _DIRECTIONS if len(part.wiring.axes) > 2 else _DIRECTIONS[2:0:-1]
    for size, (right, up) in list(zip(part.wiring.axes, directions, strict=False))[::-1]:
        place, coordinate = divmod(place, size)
        x, y = x + coordinate * right, y + coordinate * up
    return x + group * 1.6 * sum(part.wiring.axes), y


def _draw_nodes(axes: "Axes", network: Network, places: Points) -> None:
    devices = np.array([point for node, point in places.items() if node < network.num_devices])
    switches = [(node, point) for node, point in places.items() if node >= network.num_devices]
    axes.scatter(devices[:, 0], devices[:, 1], s=max(4.0, 900.0 / len(devices)), color="#333333", zorder=3)
    if switches:
        points = np.array([point for _, point in switches])
        axes.scatter(points[:, 0], points[:, 1], s=40, marker="s", color="#BBBBBB", edgecolors="#333333", zorder=3)
    if len(switches) <= 40:
        for node, (x, y) in switches:
            axes.annotate(network.node_name(node), (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=7)


def _rates(rates: Floats) -> str:
    low, high = rates.min() / GIGA, rates.max() / GIGA
    return f"{low:,.4g} GB/s a link" if np.isclose(low, high) else f"{low:,.4g} to {high:,.4g} GB/s a link"


def _latency(seconds: Floats) -> str:
    most = float(seconds.max())
    return f"{most / MILLI:.3g} ms" if most >= MILLI else f"{most / MICRO:.3g} us"
