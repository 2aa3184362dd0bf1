"""Reports: every kind through every format, what they promise, and how they are written."""

import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from meshwise.report import assembling, writing
from meshwise.report.document import (
    Bullets,
    Cell,
    Column,
    Listing,
    Paragraph,
    Picture,
    Report,
    Section,
    Source,
    Table,
)
from meshwise.report.paper.pages import pages
from meshwise.report.style import drawn
from tests import measured
from tests.cli import faults, meshwise

SMALL = ("--model", "gpt2", "--cluster", "dgx-a100", "--devices", "8", "--global-batch", "64")
SAMPLES: dict[str, tuple[str, ...]] = {
    "capacity": ("capacity", "--model", "gpt2", "--tokens", "1T", "--deadline", "60d", "--budget", "50k",
                 "--accelerators", "a100-sxm-80gb", "--counts", "8", "--terms", "on-demand,purchase",
                 "--start", "2026-12-01", "--no-cache", "--workers", "1"),
    "estimate": ("estimate", *SMALL, "--tp", "2", "--pp", "2", "--memory"),
    "plan": ("plan", *SMALL, "--top", "3", "--max-micro-batch", "2", "--pareto", "--scale", "4,8"),
    "simulate": ("simulate", *SMALL, "--tp", "2", "--pp", "2", "--network", "flows", "--jitter", "0.01", "--runs", "3",
                 "--days", "2"),
    "serving-capacity": ("capacity", "examples/serve-chat-for-a-day.toml", "--providers", "Lambda"),
    "serving-estimate": ("estimate", "examples/llama3-8b-chat.toml"),
    "serving-plan": ("plan", "examples/llama3-8b-chat.toml", "--top", "3", "--no-simulate"),
    "serving-simulate": ("simulate", "examples/assistant.toml"),
}  # fmt: skip
"""A command for every kind of report."""
LAPTOP = Path("examples/laptop-chat.toml")
MEASURED: dict[str, Callable[[Callable[..., Report]], Report]] = {
    "serving-validate": lambda build: build(measured.served(LAPTOP), LAPTOP),
    "validate": lambda build: build(measured.asked(), measured.comparison(measured.asked()), None),
    "validate-sweep": lambda build: build(measured.asked(), measured.sweep(measured.asked()), None),
}
"""Kinds whose commands run something for real, from answers that are made up."""
SLOW = ("serving-capacity", "serving-plan")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted({*SAMPLES, *MEASURED})]


class Made(dict[str, tuple[Report, Path]]):
    """Of a kind, the report that its command makes and the page that it writes; made when it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> tuple[Report, Path]:
        caught: list[Report] = []
        page, really = self.folder / f"{name}.html", writing.write
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", "1800000000")
            patch.setattr(writing, "write", lambda paths, report, force: caught.append(report))
            if name in MEASURED:
                caught.append(MEASURED[name](assembling.find(name)))
            else:
                result = meshwise(*SAMPLES[name], "--report", page)
                assert result.code == 0, result.err
        really([page], caught[-1], False)
        self[name] = (caught[-1], page)
        return self[name]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("reports"))


def test_every_kind_has_a_sample() -> None:
    assert {*SAMPLES, *MEASURED} == set(assembling.load())


@pytest.mark.parametrize("name", NAMES)
def test_a_report_says_what_it_rests_on(reports: Made, name: str) -> None:
    report, _ = reports[name]
    assert report.sources
    assert all(source.source for source in report.sources)
    assert {"meshwise", "data of meshwise", "Python", "numpy"} <= {what for what, _ in report.versions}
    assert report.limits
    assert report.date == "2027-01-15 08:00 UTC"
    assert report.pictures
    titles = [section.title for section in report.all_sections]
    assert len(set(titles)) == len(titles)
    assert all(section.blocks for section in report.all_sections)
    assert name in MEASURED or shlex.join(SAMPLES[name]) in str(report.question)


@pytest.mark.parametrize("name", NAMES)
def test_every_prediction_has_an_error_bar_or_a_reason(reports: Made, name: str) -> None:
    report, _ = reports[name]
    with_bars = 0
    for table in report.tables:
        for index, column in enumerate(table.columns):
            if column.is_prediction:
                assert table.basis, f"{table.title}: {column.name} predicts, and the table does not say how surely"
                with_bars += any(row[index].low for row in table.rows)
    assert with_bars or name == "serving-validate"  # prices measured a few times have no error bar, as the page says


@pytest.mark.parametrize("name", NAMES)
def test_plots_have_names_of_their_own_and_captions(reports: Made, name: str) -> None:
    report, _ = reports[name]
    names = [one.name for one in report.pictures]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", one) for one in names)
    assert all(one.caption.endswith(".") and one.title for one in report.pictures)


class _Markup(HTMLParser):
    """What a page loads, its ids, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names.append(tag)
        self.loads += [values[name] or "" for name in ("src", "href", "xlink:href", "action", "data") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_needs_nothing_else(reports: Made, name: str) -> None:
    report, path = reports[name]
    text = path.read_text()
    assert len(text.encode()) < 2_000_000
    page = _Markup()
    page.feed(text)
    assert all(one.startswith(("#", "data:")) for one in page.loads), page.loads
    assert not {"iframe", "object", "embed", "base"} & set(page.names)
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!#|data:)", text)
    assert len(set(page.ids)) == len(page.ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    assert page.names.count("table") == len(report.tables)
    assert page.names.count("svg") == len(report.pictures)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_same_bytes_again(reports: Made, name: str) -> None:
    report, path = reports[name]
    assert writing.load()[".html"].write(report)[""] == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_paper_takes_every_report(reports: Made, name: str) -> None:
    """As PDF: the pictures of a folder are the same pages."""
    assert writing.load()[".pdf"].write(reports[name][0])[""].startswith(b"%PDF")


def _small() -> Report:
    """A report of one of everything, with a table that a page does not hold."""
    columns = (Column("name"), Column("cost", "$", "what it $costs$", is_number=True, is_prediction=True))
    rows = tuple((Cell(f"row {number}"), Cell(f"{number}", number, "0", "99")) for number in range(80))
    blocks = (
        Paragraph("$5 to $6."), Bullets(("one", "two")), Listing("a file", "  x = 1\n"),
        Table("costs", columns, rows, "By hand."), Picture("plot", "A plot", "It shows a line.", _plot),
    )  # fmt: skip
    asked = Section("The question", (Listing("the command", "meshwise"),))
    return Report("Small", ("The answer.",), asked, (Section("One", blocks),), (Source("kind", "name", "book"),),
                  (("meshwise", "1"),), ("Nothing.",), "2027-01-15")  # fmt: skip


def _plot() -> Figure:
    figure = Figure(figsize=(20.0, 3.0), layout="constrained")
    figure.add_subplot().plot([1.0, 2.0], [3.0, 1.0], label="$5")
    return figure


@pytest.mark.parametrize("ending", sorted(writing.load()))
def test_a_format_gives_equal_bytes_for_equal_reports(ending: str) -> None:
    form = writing.load()[ending]
    first, again = form.write(_small()), form.write(_small())
    assert first == again
    assert all(re.fullmatch(form.owns, name) for name in first)
    starts = {"": b"\x89PNG", ".html": b"<!DOCTYPE html>", ".pdf": b"%PDF"}
    assert all(content.startswith(starts[ending]) for content in first.values())


def test_paper_keeps_text_on_the_page_and_repeats_heads() -> None:
    with drawn():
        found = pages(_small())
        boxes = [(page.bbox, text.get_window_extent(), text.get_text()) for page in found for text in page.texts]
    assert len(found) > 2
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for page, box, _ in boxes)
    assert sum(words == "cost" for *_, words in boxes) > 2
    assert {f"row {number}" for number in range(80)} <= {words for *_, words in boxes}


def test_markup_in_what_users_write_stays_text(tmp_path: Path) -> None:
    job = tmp_path / "<b>job & co.toml"
    job.write_text('# <script>alert("1")</script>\n[job]\nmodel = "gpt2"\ncluster = "dgx-a100"\nglobal_batch = 64\n')
    assert meshwise("estimate", job, "--report", tmp_path / "a.html").code == 0
    page = (tmp_path / "a.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_reports_are_written_whole_and_replace_nothing_unasked(tmp_path: Path) -> None:
    page, folder = tmp_path / "a.html", tmp_path / "shown"
    writing.write([page, folder], _small(), False)
    first = sorted(path.name for path in folder.iterdir())
    assert {"page-01.png", "plot-plot.png"} <= set(first)
    (folder / "mine.txt").write_text("kept")
    (folder / "page-99.png").write_bytes(b"of a longer report")
    for path in (page, folder):
        refused = meshwise("estimate", *SMALL, "--report", path)
        assert not faults(refused)
        assert "--force" in refused.err
    writing.write([folder], _small(), True)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", *first]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "shown"]


@pytest.mark.parametrize("path", ["a.docx", "none/a.html", "none/pictures"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, path: str) -> None:
    refused = meshwise("estimate", *SMALL, "--report", tmp_path / path)
    assert not faults(refused)
    assert path in refused.err


def test_one_name_for_two_reports_is_refused(tmp_path: Path) -> None:
    assert not faults(meshwise("estimate", *SMALL, "--report", tmp_path / "a.pdf", "--report", tmp_path / "a.pdf"))


def test_json_stays_one_object_beside_a_report(tmp_path: Path) -> None:
    result = meshwise("estimate", *SMALL, "--json", "--report", tmp_path / "a.html")
    assert (result.code, result.out[0], result.out[-2:]) == (0, "{", "}\n")
    assert "a.html" in result.err
