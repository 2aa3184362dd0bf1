"""Pages that are filled from the top: a new one begins where what comes next has no room."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshwise.report.paper.widths import POINTS_PER_INCH, wrapped
from meshwise.report.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

PAGE_INCHES = (11.69, 8.27)
"""A4, landscape."""
MARGIN_INCHES = 0.6
WIDTH_INCHES = PAGE_INCHES[0] - 2.0 * MARGIN_INCHES
HEIGHT_INCHES = PAGE_INCHES[1] - 2.0 * MARGIN_INCHES
SOFT = "#57606a"
"""Of remarks."""
_LINE_FACTOR = 1.32
_FOOTER_POINTS = 7.0
_ROUNDING_INCHES = 1e-6


@dataclass(slots=True)
class Sheets:
    """Pages, and how far the last one is filled."""

    footer: str
    pages: "list[Figure]" = field(default_factory=list)
    reached_inches: float = PAGE_INCHES[1]
    """From the top of the page; a page begins with the first text."""

    def turn(self) -> None:
        """Begin a page."""
        from matplotlib.figure import Figure

        self.pages.append(Figure(figsize=PAGE_INCHES))
        self.reached_inches = PAGE_INCHES[1] - 0.6 * MARGIN_INCHES
        self.put(self.footer, _FOOTER_POINTS, color=SOFT)
        self.put(f"page {len(self.pages)}", _FOOTER_POINTS, left_inches=WIDTH_INCHES, is_right=True, color=SOFT)
        self.reached_inches = MARGIN_INCHES

    @property
    def left_inches(self) -> float:
        """Room down to the lower margin."""
        return PAGE_INCHES[1] - MARGIN_INCHES - self.reached_inches

    def need(self, inches: float) -> bool:
        """Begin a page unless so much room is left on this one; whether one was begun."""
        turns = self.left_inches < inches - _ROUNDING_INCHES
        if turns:
            self.turn()
        return turns

    def space(self, inches: float) -> None:
        """Leave room."""
        self.reached_inches += inches

    def write(
        self, text: str, points: float, *, left_inches: float = 0.0, is_bold: bool = False, is_code: bool = False,
        color: str = INK,
    ) -> None:  # fmt: skip
        """Lines of text across the page."""
        for line in wrapped(text, WIDTH_INCHES - left_inches, points, is_bold=is_bold, is_code=is_code):
            self.need(line_inches(points))
            self.put(line, points, left_inches=left_inches, is_bold=is_bold, is_code=is_code, color=color)
            self.space(line_inches(points))

    def put(
        self, text: str, points: float, *, left_inches: float = 0.0, down_inches: float = 0.0, is_bold: bool = False,
        is_code: bool = False, is_right: bool = False, color: str = INK,
    ) -> None:  # fmt: skip
        """One piece of text so far from the left margin, and so far below what the page is filled to."""
        across = (MARGIN_INCHES + left_inches) / PAGE_INCHES[0]
        up = 1.0 - (self.reached_inches + down_inches) / PAGE_INCHES[1]
        self.pages[-1].text(
            across, up, text, fontsize=points, va="top", ha="right" if is_right else "left", color=color,
            fontweight="bold" if is_bold else "normal", fontfamily="monospace" if is_code else "sans-serif",
            parse_math=False,
        )  # fmt: skip

    def rule(self, width_inches: float, line_width: float) -> None:
        """A line across so much of the page, where it is filled to."""
        from matplotlib.lines import Line2D

        up = 1.0 - self.reached_inches / PAGE_INCHES[1]
        ends = [at / PAGE_INCHES[0] for at in (MARGIN_INCHES, MARGIN_INCHES + width_inches)]
        self.add(Line2D(ends, [up, up], color=FAINT, linewidth=line_width))

    def add(self, artist: "Artist") -> None:
        """Anything else that draws itself on the page."""
        self.pages[-1].add_artist(artist)


def line_inches(points: float) -> float:
    """Height of a line of text."""
    return _LINE_FACTOR * points / POINTS_PER_INCH
