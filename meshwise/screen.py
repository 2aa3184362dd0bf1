"""Where output goes: tables and JSON on stdout, errors and progress on stderr, plain when not a terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SCHEMA_VERSION = 1
MIN_WIDTH = 120
"""Columns tables are laid out for; a narrower terminal wraps lines rather than lose figures."""
PATIENCE_SECONDS = 1.0
"""A progress bar appears once work has taken longer."""

OnProgress = Callable[[str, int, int], None]


def console() -> Console:
    """The console tables are printed on."""
    found = Console(highlight=False)
    if not found.is_terminal or found.width < MIN_WIDTH:
        found.width = MIN_WIDTH
    return found


def say_error(sentence: str) -> None:
    """One sentence on stderr."""
    sys.stderr.write(f"meshwise: {' '.join(sentence.split())}\n")


def say(sentence: str) -> None:
    """A remark on stderr, beside an answer that goes into a file or a pipe."""
    sys.stderr.write(f"{' '.join(sentence.split())}\n")


def print_json(document: dict[str, Any]) -> None:
    """One JSON object on stdout, headed by the version of its keys (docs/json.md)."""
    sys.stdout.write(json_text(document))


def json_text(document: dict[str, Any]) -> str:
    """The text of one JSON object, headed by the version of its keys."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, allow_nan=False) + "\n"


@contextmanager
def progress() -> Iterator[OnProgress]:
    """A callback (what, done, of how many) that draws a bar on stderr once the work has taken a second.

    Nothing is drawn where stderr is not a terminal.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, Any] = {}
    started = time.monotonic()

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)
        if not bar.live.is_started and time.monotonic() - started > PATIENCE_SECONDS and sys.stderr.isatty():
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
