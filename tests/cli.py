"""Run a command line inside the test's own process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from meshwise.__main__ import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def meshwise(*arguments: str | Path) -> Result:
    """Exit code, stdout and stderr of `meshwise ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def faults(result: Result) -> list[str]:
    """What is wrong with a refusal: it must exit 2 with one sentence on stderr and nothing else."""
    wrong = []
    if result.code != 2:
        wrong.append(f"exit code {result.code}")
    if result.err.count("\n") != 1 or not result.err.startswith("meshwise: "):
        wrong.append(f"stderr is not one sentence: {result.err!r}")
    if result.out:
        wrong.append(f"stdout is not empty: {result.out[:200]!r}")
    return wrong
