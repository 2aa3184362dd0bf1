"""How plots look: one set of colours and sizes for the screen and for print.

Formats draw and write plots within `drawn`, which keeps matplotlib's global state as it was. Text and axes have the
colour `INK`, which a page replaces by its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis

INK, FAINT = "#1b2129", "#8b949e"
BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, GREY = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB",
)  # fmt: skip
ORANGE, INDIGO, SAND, WINE = "#EE7733", "#332288", "#DDCC77", "#882255"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, CYAN, YELLOW, RED, GREY)
"""Apart from one another for colour-blind readers too [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""
PART_COLOURS = {
    "forward": BLUE, "backward": ORANGE, "recompute": SAND, "optimizer": GREEN, "tp": PURPLE, "cp": WINE,
    "ep": RED, "pp": INDIGO, "dp": CYAN, "host": "#666666", "idle": GREY,
}  # fmt: skip
"""Of the parts of a step."""
WIDTH_INCHES = 9.0

_SETTINGS: dict[str, Any] = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlecolor": INK, "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 8.0, "axes.titlesize": 9.0, "axes.titlelocation": "left",
    "axes.grid": False, "figure.constrained_layout.use": True, "svg.fonttype": "none",
    "pdf.fonttype": 42, "image.composite_image": False, "path.simplify": True,
}  # fmt: skip


@contextmanager
def drawn() -> Iterator[None]:
    """Draw, or write, with the settings of reports."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def plain_decades(axis: "Axis", steps: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade, or at other steps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())
