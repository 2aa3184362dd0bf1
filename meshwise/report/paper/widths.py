"""How wide text is, and where its lines break."""

from collections.abc import Sequence
from functools import cache

POINTS_PER_INCH = 72.0
_MEASURED_POINTS = 100.0
"""Size at which letters are measured; widths scale with the size."""


def text_inches(text: str, points: float, *, is_bold: bool = False, is_code: bool = False) -> float:
    """Width of a line of text, as the sum of its letters."""
    at_size = sum(_letter_points(letter, is_bold, is_code) for letter in text)
    return at_size / _MEASURED_POINTS * points / POINTS_PER_INCH


@cache
def _letter_points(letter: str, is_bold: bool, is_code: bool) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(
        family="monospace" if is_code else "sans-serif", weight="bold" if is_bold else "normal", size=_MEASURED_POINTS
    )
    pair = text_to_path.get_text_width_height_descent(f"{letter}x", font, ismath=False)[0]
    return float(pair - text_to_path.get_text_width_height_descent("x", font, ismath=False)[0])


def wrapped(
    text: str, width_inches: float, points: float, *, is_bold: bool = False, is_code: bool = False
) -> list[str]:
    """Lines of at most `width_inches`; a word that is longer is cut. Line breaks and, in code, blanks stay."""
    lines: list[str] = []
    for line in text.split("\n"):
        words = [line] if is_code else line.split()
        lines += _filled(words, width_inches, points, is_bold, is_code) or [""]
    return lines


def _filled(words: Sequence[str], width_inches: float, points: float, is_bold: bool, is_code: bool) -> list[str]:
    lines: list[str] = []
    for word in words:
        joined = f"{lines[-1]} {word}" if lines else word
        if text_inches(joined, points, is_bold=is_bold, is_code=is_code) <= width_inches:
            lines[-1:] = [joined]
            continue
        rest = word
        while rest:
            fits = len(rest)
            while fits > 1 and text_inches(rest[:fits], points, is_bold=is_bold, is_code=is_code) > width_inches:
                fits -= 1
            lines.append(rest[:fits])
            rest = rest[fits:]
    return lines
