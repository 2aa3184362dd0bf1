"""What a command that was interrupted says of what it had measured."""

from pathlib import Path

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal."""


def where_kept(output: Path | None) -> str:
    """How to go on: launches are kept beside the file that an answer goes to."""
    return "the same command goes on from here" if output else "give --output to keep what was measured"
