"""A plot as part of a page: drawn where it lies, as lines and letters rather than as an image."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase

from meshwise.report.paper.sheets import HEIGHT_INCHES, MARGIN_INCHES, PAGE_INCHES, WIDTH_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PlacedPlot(Artist):
    """A figure on a page: its lower left corner at (left, bottom) inches, its size at most what was given."""

    def __init__(
        self, plot: "Figure", page: "Figure", size_inches: tuple[float, float], corner_inches: tuple[float, float]
    ) -> None:
        super().__init__()
        self.plot, self.page, self.size_inches, self.corner_inches = plot, page, size_inches, corner_inches

    def draw(self, renderer: RendererBase) -> None:
        """Lay the plot out for its size, move it to its place and draw it."""
        self.plot.dpi = self.page.dpi
        self.plot.set_size_inches(self.size_inches)
        self.plot.draw_without_rendering()
        self.plot.set_layout_engine("none")
        left, bottom = self.corner_inches
        width, height = self.size_inches
        self.plot.bbox_inches.set_points(np.array([[left, bottom], [left + width, bottom + height]]))
        self.plot.draw(renderer)


_LEAST_FACTOR = 0.65
"""A plot is made this much smaller rather than leave the rest of a page empty."""


def placed_size(figure: "Figure", left_inches: float, whole_inches: float = HEIGHT_INCHES) -> tuple[float, float]:
    """The size of a figure on paper: its own, or smaller as a page wants that has `left_inches` of `whole_inches`."""
    width, height = figure.get_size_inches()
    factor = min(1.0, WIDTH_INCHES / width, whole_inches / height)
    shrunk = left_inches / (factor * height)
    factor *= shrunk if _LEAST_FACTOR <= shrunk < 1.0 else 1.0
    return float(width * factor), float(height * factor)


def corner(size_inches: tuple[float, float], reached_inches: float) -> tuple[float, float]:
    """Where a plot lies that begins at the left margin, `reached_inches` from the top of the page."""
    return MARGIN_INCHES, PAGE_INCHES[1] - reached_inches - size_inches[1]
