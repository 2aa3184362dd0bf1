"""What was asked, as the section of a report: the command, the file, and every input with how it is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from meshwise.invocation import command_line
from meshwise.jobfile import Question
from meshwise.report.cells import plain
from meshwise.report.document import Block, Cell, Column, Listing, Paragraph, Section, Table
from planner.plan import Plan, as_written
from profiles.files import read_text

_COLUMNS = (Column("input"), Column("value"), Column("how it is known"))
_STATED, _ASSUMED, _DEFAULT = "stated", "assumed", "default"


def training_inputs(question: Question, plan: Plan | None, path: Path | None) -> Section:
    """The question of a training job, and of one plan where it is about one."""
    known = {name: _ASSUMED if name in question.assumed else _known(question.table, name)
             for name in type(question.table).model_fields}  # fmt: skip
    values = {name: value for name, value in question.table.model_dump().items() if value is not None}
    blocks: list[Block] = [*_asked(path), *_inputs(values, known)]
    if plan is not None:
        split = tuple((plain(name.replace("_", " ")), plain(value)) for name, value in as_written(plan).items())
        blocks.append(Table("the split", (Column("field"), Column("value")), split))
    return Section("The question", tuple(blocks))


def tables_inputs(tables: Mapping[str, BaseModel], path: Path | None) -> Section:
    """A question whose parts are `tables` of a job file, by name."""
    values = {f"{part}: {name}": value for part, table in tables.items() for name, value in table.model_dump().items()}
    known = {f"{part}: {name}": _known(table, name) for part, table in tables.items()
             for name in type(table).model_fields}  # fmt: skip
    stated = {name: value for name, value in values.items() if value is not None and value != ()}
    return Section("The question", (*_asked(path), *_inputs(stated, known)))


def _asked(path: Path | None) -> list[Block]:
    blocks: list[Block] = [Listing("the command", command_line())]
    if path is not None:
        blocks.append(Listing(f"the file {path.name}", read_text(path).rstrip("\n")))
    return blocks


def _known(table: BaseModel, name: str) -> str:
    is_usual = getattr(table, name) == type(table).model_fields[name].default
    return _DEFAULT if is_usual else _STATED


def _inputs(values: Mapping[str, Any], known: Mapping[str, str]) -> list[Block]:
    """What was stated and assumed as a table, and in a line what nobody touched."""
    named = [(name.replace("_", " "), value, known[name]) for name, value in values.items()]
    rows = tuple((Cell(name), plain(value), Cell(how)) for name, value, how in named if how != _DEFAULT)
    usual = [f"{name} {value}" for name, value, how in named if how == _DEFAULT]
    blocks: list[Block] = [Table("the job", _COLUMNS, rows)]
    return [*blocks, Paragraph(f"Left as they are by default: {', '.join(usual)}.")] if usual else blocks
