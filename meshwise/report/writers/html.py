"""A report as one page of HTML that needs nothing else: plots as inline SVG, its own style and script."""

import re
from io import BytesIO
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meshwise.report.document import Picture, Report
from meshwise.report.style import INK, drawn
from meshwise.report.writing import Files, writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SVG_BYTES = 300_000
"""A plot with more has its marks drawn as one image; its text stays text."""
_DOTS_PER_INCH = 160


@writer(".html")
def html(report: Report) -> Files:
    """The page, under 2 MB unless a job has hundreds of plans."""
    environment = Environment(
        loader=PackageLoader("meshwise.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["of"] = lambda block, kind: type(block).__name__ == kind
    page = environment.get_template("page.html").render(report=report, svg=svg)
    return {"": page.encode()}


def svg(picture: Picture) -> Markup:
    """A plot as an element of a page: colours of text and axes are the page's, and ids are the plot's own."""
    text = _saved(picture)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(rf"{INK}|#000000", "var(--ink)", text)
    text = re.sub(r'\bid="', f'id="{picture.name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{picture.name}-", text)
    text = re.sub(r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"', r"<svg \1", text, count=1)
    head = f'<svg role="img" aria-labelledby="{picture.name}-caption" '
    return Markup(text.replace("<svg ", head, 1))  # markup that matplotlib escaped


def _saved(picture: Picture) -> str:
    """The plot in SVG; one of very many marks has these as an image."""
    import matplotlib as mpl

    with drawn(), mpl.rc_context({"svg.hashsalt": picture.name}):
        figure = picture.draw()
        text = _written(figure)
        if len(text) > MOST_SVG_BYTES:
            for axes in figure.axes:
                for mark in (*axes.collections, *axes.lines, *axes.patches):
                    mark.set_rasterized(True)
            text = _written(figure)
    return text


def _written(figure: "Figure") -> str:
    file = BytesIO()
    figure.savefig(file, format="svg", transparent=True, dpi=_DOTS_PER_INCH, metadata={"Date": None})
    return file.getvalue().decode()
