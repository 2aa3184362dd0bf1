"""What the documents say is what the program does."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from meshwise.jobfile import JobTable, SplitTable
from meshwise.options import JobFlags, LongRunFlags, MoneyFlags, SearchFlags, SplitFlags
from tests.cli import meshwise
from tests.documents import play

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_readme_shows_what_the_commands_print(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fresh = play(README, tmp_path)
    if request.config.getoption("--regenerate-golden"):
        README.write_text(fresh)
    assert README.read_text() == fresh, "README outputs differ; if they are right, run pytest --regenerate-golden"


def errors_of(name: str) -> str:
    """The README's row of a set of runs: its number, and the errors that docs/accuracy.md gives it."""
    board = (ROOT / "docs" / "accuracy.md").read_text()
    cells = re.search(rf"^\| {re.escape(name)}(?: \([^|]*\))? \| (.+)$", board, re.MULTILINE)
    assert cells, f"docs/accuracy.md has no set {name!r}"
    runs, mean, _, left_out, constant, *_ = (cell.strip() for cell in cells[1].split("|"))
    return f"| {name} | {runs} | {mean} | {left_out} | {constant} |"


def test_the_table_of_errors_says_what_the_board_does(request: pytest.FixtureRequest) -> None:
    text = README.read_text()
    rows = text.partition("| runs |")[2].partition("\n\n")[0].splitlines()[2:]
    fresh = [errors_of(row.split("|")[1].strip()) for row in rows]
    if request.config.getoption("--regenerate-golden"):
        README.write_text(text.replace("\n".join(rows), "\n".join(fresh)))
        return
    assert rows == fresh, "figures differ from docs/accuracy.md; run pytest --regenerate-golden"


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_tables_of_options_are_complete() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    fields = [name for name in (*JobTable.model_fields, *SplitTable.model_fields) if name != "kind"]
    assert [name for name in fields if f"`{name}` |" not in text] == []


def test_every_shared_option_is_described() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    names = [
        field.name for group in (JobFlags, SplitFlags, SearchFlags, LongRunFlags, MoneyFlags) for field in fields(group)
    ]
    options = [name.replace("_", "-") for name in names]
    assert [name for name in options if not re.search(rf"`--(\[no-\])?{name}[` ]", text)] == []


def test_the_index_and_the_site_list_every_document_once() -> None:
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs" / "index.md").read_text())
    assert sorted(["index.md", *(page for page in linked if not page.startswith(".."))]) == pages
    listed = re.findall(r"^ +- [^:]+: ([\w/.-]+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert [page for page in pages if listed.count(page) != 1] == []


JOB = ("--model", "gpt2", "--cluster", "dgx-a100", "--global-batch", "16")
JSON_COMMANDS = (
    ("estimate", *JOB),
    ("estimate", *JOB, "--explain"),
    ("plan", *JOB, "--top", "2", "--max-micro-batch", "1", "--pareto", "--require", "tp<=2"),
    ("plan", "--model", "llama3.1-405b", "--cluster", "a10"),
    ("simulate", *JOB, "--pp", "2"),
    ("score", "training", "sequence_parallelism_table5", "--rows"),
    ("plan", *JOB, "--top", "2", "--max-micro-batch", "1", "--explain", "2", "--scale", "8,16"),
    ("diff", os.fspath(ROOT / "examples" / "llama3-70b-on-64-h100.toml"), "--cluster", "dgx-b200"),
    ("diff", "dgx-a100", "dgx-h100"),
    ("export", *JOB, "--to", "megatron"),
    ("estimate", *JOB, "--price", "2", "--tokens", "1B"),
    ("profiles", "list"),
    ("profiles", "check", os.fspath(ROOT / "profiles" / "data" / "models" / "gpt2.toml")),
)
DATA_KEYS = {
    "rejected",
    "figures",
    "unmet",
    "names",
    "by_source",
    "by_accelerator",
    "memory",
    "skipped",
    "cluster",
    "records",
}
"""Keys whose value is keyed by data: rules, names, reasons."""


def keys_of(value: Any) -> Iterator[str]:
    """Keys at any depth, but for those that are data."""
    if isinstance(value, list):
        for item in value:
            yield from keys_of(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys_of(list(item.values()) if key in DATA_KEYS and isinstance(item, dict) else item)


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_every_json_key_is_documented(command: tuple[str, ...]) -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    answer = json.loads(meshwise(*command, "--json").out)
    assert answer["schema_version"] == 1
    assert sorted({key for key in keys_of(answer) if f"`{key}`" not in text}) == []
