"""The pages of a report, as matplotlib figures."""

from typing import TYPE_CHECKING

from meshwise.report.document import Block, Bullets, Listing, Paragraph, Picture, Report, Table
from meshwise.report.paper.plots import PlacedPlot, corner, placed_size
from meshwise.report.paper.sheets import HEIGHT_INCHES, SOFT, Sheets, line_inches
from meshwise.report.paper.tables import add_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE, _LEAD, _SECTION, _HEAD, _BODY, _CAPTION, _CODE = 20.0, 12.0, 14.0, 10.0, 9.5, 8.0, 7.5
_TITLE_INCHES, _WORDS_INCHES = 0.7, 0.6
"""Room for the title of a section, and for the title and the caption of a plot."""


def pages(report: Report) -> "list[Figure]":
    """Every page, to be drawn and saved under `style.drawn`."""
    flow = Sheets(f"{report.title}. meshwise report, {report.date}")
    flow.turn()
    flow.write(report.title, _TITLE, is_bold=True)
    flow.space(0.15)
    for number, text in enumerate(report.summary):
        flow.write(text, _BODY if number else _LEAD)
        flow.space(0.12)
    plots = {one.name: one.draw() for one in report.pictures}
    for section in report.all_sections:
        flow.need(_room_of(section.blocks[0], flow, plots) + _TITLE_INCHES)
        flow.space(0.25)
        flow.write(section.title, _SECTION, is_bold=True)
        flow.space(0.08)
        for block in section.blocks:
            _add(flow, block, plots)
    return flow.pages


def _room_of(block: Block, flow: Sheets, plots: "dict[str, Figure]") -> float:
    """Room that a block wants under the title of its section, so that no title stands alone."""
    if isinstance(block, Picture):
        return _plot_size(plots[block.name], flow, _TITLE_INCHES)[1] + _WORDS_INCHES
    return 1.0


def _plot_size(plot: "Figure", flow: Sheets, title_inches: float = 0.0) -> tuple[float, float]:
    """Size of a plot that shares what is left of the page with its own title and caption."""
    left = flow.left_inches - _WORDS_INCHES - title_inches
    return placed_size(plot, left, HEIGHT_INCHES - _WORDS_INCHES - _TITLE_INCHES)


def _add(flow: Sheets, block: Block, plots: "dict[str, Figure]") -> None:
    if isinstance(block, Table):
        add_table(flow, block)
    elif isinstance(block, Picture):
        _add_plot(flow, block, plots[block.name])
    elif isinstance(block, Listing):
        flow.need(3.0 * line_inches(_CODE))
        flow.write(block.name, _CAPTION, color=SOFT)
        flow.write(block.text, _CODE, is_code=True)
        flow.space(0.12)
    else:
        lines = (block.text,) if isinstance(block, Paragraph) else block.lines
        for line in lines:
            flow.write(line, _BODY, left_inches=0.15 if isinstance(block, Bullets) else 0.0)
            flow.space(0.05)


def _add_plot(flow: Sheets, block: Picture, plot: "Figure") -> None:
    size = _plot_size(plot, flow)
    flow.need(size[1] + _WORDS_INCHES)
    flow.write(block.title, _HEAD, is_bold=True)
    flow.add(PlacedPlot(plot, flow.pages[-1], size, corner(size, flow.reached_inches)))
    flow.space(size[1])
    flow.write(block.caption, _CAPTION, color=SOFT)
    flow.space(0.15)
