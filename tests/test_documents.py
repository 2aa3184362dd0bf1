"""Every command that a document shows is run, or where it cannot be, at least understood (`tests/documents.py`).

The README is played by `tests/test_readme.py`, the examples by `tests/test_examples.py`.
"""

import re
from pathlib import Path

import pytest
import typer

from meshwise.__main__ import app
from tests.documents import FILES, ROOT, blocks, leaves, parse, play

PAGES = sorted([ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SLOW = {"docs/reports.md", "docs/tutorial.md", "docs/guides/choose-a-split.md", "docs/guides/breakdown.md"}
"""Pages that take more than a few seconds."""
PROGRAMS = {"docs/accuracy.md", "docs/benchmarks.md"}
"""Pages that programs write."""
NAMES = {page: page.relative_to(ROOT).as_posix() for page in PAGES}
LANGUAGES = {"", "sh", "console", "text", "python", *FILES}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if NAMES[page] in SLOW else []) for page in PAGES],
    ids=NAMES.get,
)
def test_a_page_says_what_the_program_does(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fresh = play(page, tmp_path)
    if request.config.getoption("--regenerate-golden"):
        page.write_text(fresh)
    assert page.read_text() == fresh, f"outputs of {NAMES[page]} differ; if right, run pytest --regenerate-golden"


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A command in a block of another kind would be shown without ever being tried."""
    for block in blocks(page):
        if block.language not in ("sh", "console") and block.title != "synopsis" and NAMES[page] not in PROGRAMS:
            assert not re.findall(r"^(?:\$ )?meshwise \w+ +[\w/-]+.*$", block.text, re.MULTILINE), block.text
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert page.read_text().count("\n```") == 2 * len(blocks(page)), "a fence that no one closes, or an odd title"


def test_the_synopsis_lists_every_command() -> None:
    (synopsis,) = (block for block in blocks(ROOT / "docs" / "cli.md") if block.title == "synopsis")
    listed = re.sub(r" +", " ", synopsis.text)
    assert [words for words in leaves(typer.main.get_command(app)) if f"{words} " not in listed] == []


def test_options_that_do_not_exist_are_noticed() -> None:
    parse(["plan", "--model", "gpt2", "--top", "3"])
    with pytest.raises(Exception, match="No such option"):
        parse(["plan", "--modle", "gpt2"])


def test_outputs_that_are_no_longer_printed_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```console\n$ meshwise --version\nmeshwise of yesterday\n```\n")
    assert play(page, tmp_path) != page.read_text()


def test_the_tables_of_fields_hold_every_field() -> None:
    from docs.tools.reference import TABLES, pages

    text = pages()["reference/jobfile.md"]
    for tables in TABLES.values():
        for model in tables.values():
            assert [field for field in model.model_fields if f"| `{field}` |" not in text] == []
