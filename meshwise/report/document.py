"""What a report is made of: sections of paragraphs, tables and pictures, and where its figures come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is read, what rows are sorted by, and the error bar of a prediction."""

    text: str
    value: float | str | None = None
    """What rows are sorted by; None: their text."""
    low: str = ""
    high: str = ""
    """Ends of the error bar; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, with its unit and what it means."""

    name: str
    unit: str = ""
    note: str = ""
    """What it means, in a few words."""
    is_number: bool = False
    is_prediction: bool = False
    """Its cells have error bars, or are a dash, or the table says in `basis` why there are none."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    basis: str = ""
    """What the error bars rest on; or, where a prediction has none, why."""
    emphasised: int | None = None
    """The row that is set in bold."""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.title}: a row of another length"

    @property
    def notes(self) -> list[tuple[str, str]]:
        """(column, what it means) of every column that says so."""
        return [(column.name, column.note) for column in self.columns if column.note]


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot. `name` is a file name without ending; `caption` says what it shows, also to those who cannot see it."""

    name: str
    title: str
    caption: str
    draw: Callable[[], "Figure"]
    """Draws it anew: whoever lays a plot out for a page changes it."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text to be read."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences in a list."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Text that is shown as it stands: a command, a file."""

    name: str
    text: str


Block: TypeAlias = Paragraph | Bullets | Listing | Table | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures came from: a record of the catalog, or a curve that was fitted."""

    kind: str
    name: str
    source: str
    unverified: tuple[str, ...] = ()
    """Fields that were recalled rather than read there."""
    num_points: int | None = None
    """Measurements behind a fitted curve."""
    held_out_error_fraction: float | None = None
    """Of a fitted curve on measurements that it had not seen, in the median."""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report. The order of a page: summary, question, sections, then what the figures rest on."""

    title: str
    summary: tuple[str, ...]
    """The answer in a paragraph that needs no other; further ones for what it takes to trust it."""
    question: Section
    sections: tuple[Section, ...]
    sources: tuple[Source, ...]
    versions: tuple[tuple[str, str], ...]
    """(what, which release)."""
    limits: tuple[str, ...]
    """What the model leaves out."""
    date: str
    """When it was made."""

    @property
    def all_sections(self) -> tuple[Section, ...]:
        """Every section in the order of the page."""
        return (
            *self.sections,
            self.question,
            Section("Where the figures come from", (_sources_table(self.sources),)),
            Section("What is not modelled", (Bullets(self.limits),)),
            Section("Made with", (_versions_table(self.versions),)),
        )

    @property
    def tables(self) -> list[Table]:
        """Every table, in the order of the page."""
        return [block for section in self.all_sections for block in section.blocks if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """Every plot, in the order of the page."""
        return [block for section in self.all_sections for block in section.blocks if isinstance(block, Picture)]


def _sources_table(sources: Sequence[Source]) -> Table:
    columns = (
        Column("kind"),
        Column("record"),
        Column("source", note="where its figures were read, or measured"),
        Column("date", note="of the measurements, where a curve was fitted"),
        Column("n", note="measurements behind a fitted curve, or runs behind an error bar", is_number=True),
        Column("held-out error", "%", "median error of a fitted curve on measurements it had not seen", is_number=True),
        Column("not checked", note="fields that were recalled rather than read at the source"),
    )
    rows = tuple(
        (
            Cell(one.kind), Cell(one.name), Cell(one.source), Cell(one.date),
            Cell("" if one.num_points is None else f"{one.num_points:,}", one.num_points or 0),
            Cell(*_percent(one.held_out_error_fraction)), Cell(", ".join(one.unverified)),
        )
        for one in sources
    )  # fmt: skip
    return Table("records and fitted curves", columns, rows)


def _percent(fraction: float | None) -> tuple[str, float]:
    return ("", -1.0) if fraction is None else (f"{100.0 * fraction:.1f}", fraction)


def _versions_table(versions: Sequence[tuple[str, str]]) -> Table:
    columns = (Column("what"), Column("release", note="of the data, the first digits of the SHA-256 of all its files"))
    return Table("versions", columns, tuple((Cell(name), Cell(release)) for name, release in versions))
