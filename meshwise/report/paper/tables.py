"""Tables on paper: columns as wide as the page allows, heads again on every page, rows never cut."""

from dataclasses import dataclass

from meshwise.report.document import Cell, Column, Table
from meshwise.report.paper.sheets import SOFT, WIDTH_INCHES, Sheets, line_inches
from meshwise.report.paper.widths import text_inches, wrapped
from meshwise.report.style import INK

POINTS, RANGE_POINTS, TITLE_POINTS, NOTE_POINTS = 7.5, 6.0, 9.0, 6.8
_SMALLEST_FACTOR = 0.7
"""Tables with too many columns are set smaller, down to this."""
_GAP_INCHES = 0.14
_NARROWEST_INCHES = 1.0
"""Of a column of text that wraps."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """Widths of the columns, and by how much the text is smaller than usual."""

    widths_inches: tuple[float, ...]
    factor: float

    @property
    def whole_inches(self) -> float:
        return sum(self.widths_inches) + _GAP_INCHES * (len(self.widths_inches) - 1)


def add_table(flow: Sheets, table: Table) -> None:
    """The table from where the page is filled to, over as many pages as it takes."""
    setting = _set(table)
    rows = [_lines(table.columns, row, setting) for row in table.rows]
    first = _height(rows[0], setting) if rows else 0.0
    head = _head(table, setting)
    flow.need(line_inches(TITLE_POINTS) + _height(head, setting) + first + 0.3)
    flow.space(0.12)
    flow.write(table.title, TITLE_POINTS, is_bold=True)
    _add_head(flow, table, head, setting)
    for number, lines in enumerate(rows):
        if flow.need(_height(lines, setting)):
            flow.write(f"{table.title} (continued)", NOTE_POINTS, color=SOFT)
            _add_head(flow, table, head, setting)
        _add_row(flow, table, lines, setting, is_bold=number == table.emphasised)
        flow.rule(setting.whole_inches, 0.3)
    flow.space(0.05)
    for text in (table.basis, "; ".join(f"{name}: {note}" for name, note in table.notes)):
        if text:
            flow.write(text, NOTE_POINTS, color=SOFT)
    flow.space(0.12)


_Lines = list[list[tuple[str, bool]]]
"""Of each column its lines, and whether each is an error bar (or a unit)."""


def _set(table: Table) -> _Setting:
    """As wide as the text is; columns of text wrap where that is too wide, and then everything is set smaller."""
    for factor in (1.0, 0.85, _SMALLEST_FACTOR):
        room = WIDTH_INCHES - _GAP_INCHES * (len(table.columns) - 1)
        natural = [_natural(table, index, factor) for index in range(len(table.columns))]
        if sum(natural) <= room:
            return _Setting(tuple(natural), factor)
        wraps = [not column.is_number and width > _NARROWEST_INCHES for column, width in
                 zip(table.columns, natural, strict=True)]  # fmt: skip
        fixed = sum(width for width, wrap in zip(natural, wraps, strict=True) if not wrap)
        texts = sorted(width for width, wrap in zip(natural, wraps, strict=True) if wrap)
        most = _widest(texts, room - fixed)
        if texts and most >= min(texts[-1], _NARROWEST_INCHES * factor):
            return _Setting(tuple(min(most, width) if wrap else width for width, wrap in
                                  zip(natural, wraps, strict=True)), factor)  # fmt: skip
    share = room / sum(natural)
    return _Setting(tuple(share * width for width in natural), factor)


def _widest(widths: list[float], room: float) -> float:
    """The width beyond which columns wrap, so that all together have `room`; `widths` ascend."""
    for number, width in enumerate(widths):
        share = room / (len(widths) - number)
        if width > share:
            return share
        room -= width
    return widths[-1] if widths else 0.0


def _natural(table: Table, index: int, factor: float) -> float:
    """Width of a column that nothing wraps in, but for its head, which breaks between words."""
    column = table.columns[index]
    head = max(column.name.split(), key=len, default="") if column.is_number else column.name
    widths = [text_inches(head, POINTS * factor, is_bold=True), text_inches(column.unit, RANGE_POINTS * factor)]
    for row in table.rows:
        widths.append(text_inches(row[index].text, POINTS * factor, is_bold=True))
        if row[index].low:
            widths.append(text_inches(_ends(row[index]), RANGE_POINTS * factor))
    return max(widths) + 0.02


def _ends(cell: Cell) -> str:
    return f"{cell.low} .. {cell.high}"


def _head(table: Table, setting: _Setting) -> _Lines:
    return [
        [*_wrapped(column.name, width, setting), *([(column.unit, True)] if column.unit else [])]
        for column, width in zip(table.columns, setting.widths_inches, strict=True)
    ]


def _lines(columns: tuple[Column, ...], row: tuple[Cell, ...], setting: _Setting) -> _Lines:
    return [
        [*_wrapped(cell.text, width, setting), *([(_ends(cell), True)] if cell.low else [])]
        for cell, width, _ in zip(row, setting.widths_inches, columns, strict=True)
    ]


def _wrapped(text: str, width_inches: float, setting: _Setting) -> list[tuple[str, bool]]:
    return [(line, False) for line in wrapped(text, width_inches, POINTS * setting.factor, is_bold=True)]


def _height(lines: _Lines, setting: _Setting) -> float:
    return 0.05 + max((sum(_line(is_range, setting) for _, is_range in cell) for cell in lines), default=0.0)


def _line(is_range: bool, setting: _Setting) -> float:
    return line_inches((RANGE_POINTS if is_range else POINTS) * setting.factor)


def _add_head(flow: Sheets, table: Table, head: _Lines, setting: _Setting) -> None:
    _add_row(flow, table, head, setting, is_bold=True)
    flow.rule(setting.whole_inches, 0.8)
    flow.space(0.03)


def _add_row(flow: Sheets, table: Table, lines: _Lines, setting: _Setting, *, is_bold: bool) -> None:
    left = 0.0
    for column, width, cell in zip(table.columns, setting.widths_inches, lines, strict=True):
        down = 0.03
        for text, is_range in cell:
            points = (RANGE_POINTS if is_range else POINTS) * setting.factor
            flow.put(text, points, left_inches=left + (width if column.is_number else 0.0), down_inches=down,
                     is_bold=is_bold and not is_range, is_right=column.is_number,
                     color=SOFT if is_range else INK)  # fmt: skip
            down += line_inches(points)
        left += width + _GAP_INCHES
    flow.space(_height(lines, setting))
