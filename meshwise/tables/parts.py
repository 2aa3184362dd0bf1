"""What all tables are made of."""

from rich.table import Table
from rich.text import Text

BAR_CELLS = 32


def table(*columns: str, title: str | None = None) -> Table:
    """A table without frames; a column whose name starts with `>` is aligned to the right."""
    made = Table(box=None, title=title, title_justify="left", title_style="bold", header_style="dim", pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    return made


def bar(fraction: float) -> Text:
    """A bar of `fraction` of BAR_CELLS, in characters every terminal and log has."""
    cells = min(BAR_CELLS, round(fraction * BAR_CELLS))
    return Text("#" * cells, style="cyan")


def share(fraction: float | None) -> str:
    """A fraction as percent; `-` where there is none."""
    return "-" if fraction is None else f"{fraction:.1%}"
