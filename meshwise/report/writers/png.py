"""A report as pictures in a folder: its pages, and every plot by itself for slides."""

from io import BytesIO
from typing import TYPE_CHECKING

from meshwise.report.document import Report
from meshwise.report.style import drawn
from meshwise.report.writing import Files, writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


@writer("", owns=r"(page-\d+|plot-[a-z0-9-]+)\.png")
def png(report: Report) -> Files:
    """`page-01.png` and so on, and `plot-NAME.png`."""
    from meshwise.report.paper.pages import pages

    with drawn():
        found = {f"page-{number:02}.png": _saved(page) for number, page in enumerate(pages(report), start=1)}
        return found | {f"plot-{one.name}.png": _saved(one.draw()) for one in report.pictures}


def _saved(figure: "Figure") -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return file.getvalue()
