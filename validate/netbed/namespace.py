"""Enters a network namespace: for a process that becomes a host of a bed, or for one look inside."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from validate.netbed.names import namespace_file
from validate.netbed.shell import NetBedError

_NETWORK_BIT = 30
"""CLONE_NEWNET of setns(2)."""


def enter(name: str) -> None:
    """Move this thread, and all that it starts, into the namespace `name`; raises NetBedError."""
    _enter(namespace_file(name))


@contextlib.contextmanager
def within(name: str) -> Iterator[None]:
    """The body runs in the namespace `name`; files it opens stay there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(name)
        yield
    finally:
        _set(here, "the namespace left")
        os.close(here)


def _enter(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise NetBedError(f"{path}: {error.strerror}") from None
    try:
        _set(file, str(path))
    finally:
        os.close(file)


def _set(file: int, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, 1 << _NETWORK_BIT):
        raise NetBedError(f"{what}: {os.strerror(ctypes.get_errno())}")
