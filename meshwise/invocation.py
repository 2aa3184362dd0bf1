"""The command line that is being run, for answers that say what they were asked."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


@contextmanager
def invoked(arguments: Sequence[str]) -> Iterator[None]:
    """Within it, `command_line` says these arguments."""
    token = _ARGUMENTS.set(tuple(arguments))
    try:
        yield
    finally:
        _ARGUMENTS.reset(token)


def command_line() -> str:
    """The command as one types it; `meshwise` alone where Python called."""
    return shlex.join(("meshwise", *_ARGUMENTS.get()))
