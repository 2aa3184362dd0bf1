"""Pages that the program writes about itself: every option, every field of a job file, the public Python names."""

import ast
import inspect
import io
import os
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from meshwise import jobfile
from meshwise.__main__ import app, run
from meshwise.options import JobFlags, SplitFlags
from meshwise.serving import jobfile as serving

TABLES: dict[str, dict[str, type[BaseModel]]] = {
    "Training jobs": {"[job]": jobfile.JobTable, "[split]": jobfile.SplitTable},
    "Serving jobs": {
        "[job]": serving.ServingJobTable,
        "[load]": serving.LoadTable,
        "[targets]": serving.TargetsTable,
        "[serving], [[serving]]": serving.ServedTable,
        "[serving.prefill]": serving.PoolTable,
        "[serving.scaling]": serving.ScalingTable,
        "[[serving.failures]]": serving.FailureTable,
        "[[task]]": serving.TaskTable,
        "[[task.step]]": serving.StepTable,
    },
}
"""Kind of file -> table as it is written -> its model."""
PYTHON = {
    "The questions of the command line": ("meshwise.api",),
    "What is true before any plan": (
        "profiles.catalog", "profiles.accelerator", "profiles.cluster", "profiles.mixed", "profiles.model",
        "profiles.workload", "profiles.exchange", "profiles.software", "profiles.engine", "profiles.calibration",
        "profiles.reliability",
    ),
    "Plans and what they cost": (
        "planner.plan", "planner.layout", "planner.placement", "planner.recompute", "planner.breakdown",
        "planner.work.program", "planner.work.lower", "planner.cost.estimate", "planner.cost.kernels",
        "planner.cost.collectives", "planner.cost.memory", "planner.cost.fit", "planner.cost.goodput",
        "planner.cost.intervals", "planner.cost.serving", "planner.cost.serving_load",
    ),
    "Which plan": (
        "planner.choose.search", "planner.choose.legality", "planner.choose.pareto", "planner.choose.losses",
        "planner.choose.sensitivity", "planner.choose.serving",
    ),
    "On a clock": ("simulator.engine", "simulator.trace", "simulator.faults"),
    "For real": ("validate.compare", "validate.score.training"),
}  # fmt: skip
"""The modules that other programs are meant to call, in the order of a reader."""


def pages() -> dict[str, str]:
    """Path in the site -> markdown."""
    return {
        "reference/help.md": "\n".join(_options()),
        "reference/jobfile.md": "\n".join(_fields()),
        "reference/python.md": "\n".join(_modules()),
    }


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, groups followed down."""

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", {})
        if not inner:
            yield words
        for name, one in inner.items():
            yield from below(one, (*words, name))

    return below(typer.main.get_command(app), ())


def _options() -> Iterator[str]:
    """What every command prints for `--help`."""
    yield "# Every option\n\nWhat `--help` prints; [the command line](../cli.md) explains it.\n"
    for words in commands():
        printed = io.StringIO()
        with redirect_stdout(printed), mock.patch.dict(os.environ, {"COLUMNS": "116", "TERM": "dumb"}):
            run([*words, "--help"])
        lines = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
        yield f"## meshwise {' '.join(words)}\n\n```text\n{lines}\n```\n"


def _fields() -> Iterator[str]:
    """Every table of a job file, from the models that read it; the words are their docstrings or the option's help."""
    yield "# Fields of a job file\n\nWritten by the models that read it. [The command line](../cli.md) explains a"
    yield "training job, [serving](../serving.md) a serving job.\n"
    helps = _helps(JobFlags) | _helps(SplitFlags)
    for kind, tables in TABLES.items():
        yield f"## {kind}\n"
        for name, model in tables.items():
            yield f"### `{name}`\n\n{inspect.cleandoc(model.__doc__ or '')}\n"
            yield "| field | values | default | what |\n|---|---|---|---|"
            words = _docstrings(model)
            for field, info in model.model_fields.items():
                default = "needed" if info.default is PydanticUndefined else _plain(info.default)
                what = words.get(field) or (helps.get(field, "") if kind == "Training jobs" else "")
                yield f"| `{field}` | {_cell(_values(info.annotation))} | {default} | {_cell(what or '')} |"
            yield ""


def _modules() -> Iterator[str]:
    """The public modules, for mkdocstrings to fill in."""
    yield "# Python\n\nNames without a leading underscore; every formula cites its source.\n"
    for title, modules in PYTHON.items():
        yield f"## {title}\n"
        yield from (f"::: {module}\n    options:\n      heading_level: 3\n" for module in modules)


def _helps(flags: type) -> dict[str, str]:
    """Option -> its help."""
    hints = get_type_hints(flags, include_extras=True).items()
    return {name: option.help for name, hint in hints for option in getattr(hint, "__metadata__", ()) if option.help}


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string below it, of the model and of those it inherits from."""
    found: dict[str, str] = {}
    for one in (cls for cls in reversed(model.__mro__) if issubclass(cls, BaseModel) and cls is not BaseModel):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(text.value.value))
    return found


def _values(annotation: Any) -> str:
    """What a field takes, in plain words."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    parts = [one for one in get_args(annotation) if one not in (type(None), ...) and not hasattr(one, "gt")]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a table ({annotation.__name__.removesuffix('Table').lower()})"
    if get_origin(annotation) is tuple:
        return "a list of tables" if isinstance(parts[0], type) and issubclass(parts[0], BaseModel) else "a list"
    if parts:
        return _values(parts[0])
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true, false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _plain(value: Any) -> str:
    """A default as a file says it; nothing where there is none."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None or value == () or isinstance(value, BaseModel):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    """Text on one line, with what would end a cell of a table escaped."""
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")
