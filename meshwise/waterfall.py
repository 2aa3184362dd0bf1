"""A picture of a waterfall: the ideal step at the left, each loss a floating bar, the predicted step at the right.

matplotlib is imported when a picture is drawn, and only through its objects: no window, no global state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.choose.explain import duration
from planner.choose.losses import Loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IDEAL, _LOSS, _GAIN, _TOTAL = "#228833", "#EE7733", "#4477AA", "#444444"
"""Apart from one another for colour-blind readers too [Tol 2021, Colour Schemes, SRON/EPS/TN/09-002]."""


def draw_waterfall(losses: Sequence[Loss], title: str) -> "Figure":
    """The picture as a matplotlib Figure: one row a loss, from the ideal at the top to the step at the bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 1.6 + 0.36 * (len(losses) + 1)), layout="constrained")
    axes = figure.add_subplot()
    step = sum(loss.seconds for loss in losses)
    reached = 0.0
    longest = max(sum(loss.seconds for loss in losses[:count]) for count in range(1, len(losses) + 1))
    for row, loss in enumerate(losses):
        colour = _IDEAL if row == 0 else _LOSS if loss.seconds > 0 else _GAIN
        axes.barh(row, loss.seconds, left=reached, color=colour, height=0.7)
        reached += loss.seconds
        axes.plot([reached, reached], [row - 0.35, row + 1.35], color="#999999", linewidth=0.6)
        sign = "" if row == 0 or loss.seconds < 0 else "+"
        end = max(reached, reached - loss.seconds)
        axes.annotate(
            f"{sign}{duration(loss.seconds)}  ({loss.seconds / step:.1%})", (end, row), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.barh(len(losses), step, color=_TOTAL, height=0.7)
    axes.annotate(
        f"{duration(step)}  (MFU {losses[0].seconds / step:.1%})", (step, len(losses)), (4, 0),
        textcoords="offset points", va="center", fontsize=8, fontweight="bold",
    )  # fmt: skip
    axes.set_yticks(range(len(losses) + 1), [*(loss.words for loss in losses), "predicted step"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.22 * max(longest, step))
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=9, loc="left", wrap=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def save_waterfall(losses: Sequence[Loss], path: Path, title: str) -> None:
    """Write the picture; the file's ending (one of `profiles.files.PICTURES`) says the format."""
    draw_waterfall(losses, title).savefig(path, dpi=130)
