"""Where output goes: tables and JSON on stdout, errors and progress on stderr, plain when not a terminal."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_WIDTH = 120
"""Columns when stdout is not a terminal and COLUMNS is not set."""
PATIENCE_SECONDS = 1.0
"""A progress bar appears once work has taken longer."""

OnProgress = Callable[[str, int, int], None]


def console() -> Console:
    """The console tables are printed on."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False)


def say_error(sentence: str) -> None:
    """One sentence on stderr."""
    sys.stderr.write(f"meshwise: {' '.join(sentence.split())}\n")


def print_json(document: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


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
