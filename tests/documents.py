"""Documents as programs: what is in their code blocks is done, in order, in one folder a page.

| block | what happens to it |
|---|---|
| `sh` | every command is run and must answer |
| `console` | commands after `$ ` are run, and the lines below one must be what it prints |
| `sh title="why not"` | not run (it needs a cluster, ranks, minutes, your own file), but its options are parsed |
| `toml title="name"`, also `csv`, `json` | written to that file |
| `python` | executed |
| `text title="synopsis"` | every command there is must be listed |
| `text`, others without a title | nothing |
"""

import importlib.util
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from meshwise.__main__ import app
from tests.cli import Result, meshwise
from tests.conftest import normalise

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES = ("toml", "csv", "json")
OTHERS = ("cd", "git", "python", "pytest", "ruff", "mypy", "lint-imports", "mkdocs")
"""Programs that documents name beside meshwise, which are looked up or left alone, and never run."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.language == "console" or (self.language == "sh" and not self.title)

    @property
    def commands(self) -> list[str]:
        """Command lines, with those that go on after a backslash put together."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [part.strip() for line in lines for part in line.split(" && ") if shlex.split(part, comments=True)]


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups(default="")) for match in BLOCK.finditer(page.read_text())]


def scratch(folder: Path) -> None:
    """Make `folder` what a reader's clone looks like: the examples lie in it."""
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)


def run(line: str) -> Result | None:
    """Run one command line here; None where it is no command of ours."""
    words = shlex.split(line, comments=True)
    if words[0] != "meshwise":
        check(line)
        return None
    words, target = (words[:-2], words[-1]) if words[-2] == ">" else (words, None)
    if words[1] == "plan" and "--no-simulate" not in words and "--explain" not in words:
        words = [*words, "--no-simulate"]
    result = meshwise(*words[1:])
    if target:
        Path(target).write_text(result.out)
    return result


def check(line: str) -> None:
    """Check a command line without running it: options that the parser knows, modules that exist."""
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if "meshwise" in words:
        parse(words[words.index("meshwise") + 1 :])
    elif "-m" in words and words[0] == "python":
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module), f"{module} is no module"
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", line)))) <= set(extras), line
    else:
        assert words[0] in OTHERS, f"no block of documents may hold {line!r}"


def parse(words: list[str]) -> None:
    """Let the real parser read a command line and do nothing; raises its usage errors."""
    tree = typer.main.get_command(app)
    for command in leaves(tree).values():
        command.callback = lambda **values: 0
    tree(args=words[: words.index(">")] if ">" in words else words, prog_name="meshwise", standalone_mode=False)


def leaves(command: Any, words: str = "meshwise") -> dict[str, Any]:
    """Every command below a group, by its words."""
    inner = getattr(command, "commands", {}).items()
    below = {name: leaf for word, one in inner for name, leaf in leaves(one, f"{words} {word}").items()}
    return below or {words: command}


def play(page: Path, folder: Path) -> str:
    """Do what the blocks of `page` say in `folder`, the working directory; the page with fresh outputs.

    Raises AssertionError naming a command that does not answer.
    """
    scratch(folder)
    names: dict[str, Any] = {}
    fresh = page.read_text()
    for block in blocks(page):
        if block.language in FILES and block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, os.fspath(page), "exec"), names)
        elif block.is_run:
            fresh = fresh.replace(block.text, "".join(_answers(block)), 1)
        elif block.language == "sh":
            for line in block.commands:
                check(line)
    return fresh


def _answers(block: Block) -> Iterator[str]:
    """The text of a block with what its commands print now."""
    if block.language == "sh":
        yield block.text
    for line in block.commands:
        result = meshwise(*shlex.split(line)[1:]) if block.language == "console" else run(line)
        assert result is None or result.code == 0, f"{line}: {result}"
        if block.language == "console" and result is not None:
            yield f"$ {line}\n{normalise(result.out)}"
