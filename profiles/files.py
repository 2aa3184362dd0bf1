"""Small files read and written safely, and every fault in them said in one sentence."""

import json
import os
import tempfile
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from profiles.units import MIB

MAX_FILE_BYTES = 8 * int(MIB)
"""No profile, job or model configuration comes near this."""
PICTURES = (".png", ".svg", ".pdf")
"""Endings of the pictures that are drawn."""
_MAX_FAULTS = 4
_MAX_VALUE_CHARACTERS = 80

AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


class BadFile(ValueError):
    """A file that cannot be read as what it should be; the message names the file and the fault."""


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file; raises BadFile when it is missing, a directory, too large or not text."""
    try:
        size = path.stat().st_size
        if size <= MAX_FILE_BYTES:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            size = max(size, len(data))
        if size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES:,}"
            raise BadFile(f"{path}: at least {size:,} bytes, but a configuration file is at most {limit}")
        return data.decode("utf-8")
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: not UTF-8 text (byte {error.start}); expected TOML or JSON") from None


def read_table(path: Path) -> dict[str, Any]:
    """The table in a .toml file, or the object in a .json file; raises BadFile with the file and the line."""
    text = read_text(path)
    is_json = path.suffix.lower() == ".json"
    try:
        values = json.loads(text) if is_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise BadFile(f"{path}: not valid JSON: {error.msg} (at line {error.lineno})") from None
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"{path}: not valid TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadFile(f"{path}: not valid {'JSON' if is_json else 'TOML'}: {reason}") from None
    if not isinstance(values, dict):
        raise BadFile(f"{path}: expected an object of named values at the top, got {type(values).__name__}")
    return values


def check_writable(path: Path, overwrite: bool, endings: tuple[str, ...] = ()) -> None:
    """Raise BadFile when writing `path` would have to fail: better before long work than after.

    With `endings`, the name must have one of them.
    """
    if endings and path.suffix.lower() not in endings:
        raise BadFile(f"{path}: the name must end in {' or '.join(endings)}")
    if path.is_dir():
        raise BadFile(f"{path}: is a folder; give a file name")
    if path.exists() and not overwrite:
        raise BadFile(f"{path}: exists already; give another name, or ask to replace it (--force)")
    if not path.parent.is_dir():
        raise BadFile(f"{path}: there is no folder {path.parent}; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadFile(f"{path}: cannot be written ({error.strerror}); name a file in another folder") from None


def write_whole(path: Path, content: str | bytes, overwrite: bool) -> None:
    """Write `content` to `path` in one move, so that no reader or crash ever sees half of it; text as UTF-8."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(draft, 0o644)
        check_writable(path, overwrite)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def validated(record: type[AnyRecord], values: Mapping[str, Any], where: str | os.PathLike[str]) -> AnyRecord:
    """`values` as a `record`; raises BadFile naming `where` and every faulty field."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise BadFile(f"{where}: {explain(error, _field_names(record))}") from None


def explain(error: ValidationError, known: Collection[str] = ()) -> str:
    """One sentence for a pydantic error: for each fault the path of the field, what is wrong, and the value; a field
    that does not exist is compared with those `known`."""
    faults = [_fault(details, known) for details in error.errors(include_url=False)]
    more = len(faults) - _MAX_FAULTS
    return "; ".join(faults[:_MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def _field_names(record: Any) -> set[str]:
    """Names of the fields of a record and of those inside it."""
    if not (isinstance(record, type) and issubclass(record, BaseModel)):
        return set().union(*(_field_names(part) for part in get_args(record)))
    inner = (_field_names(field.annotation) for field in record.model_fields.values())
    return set(record.model_fields).union(*inner)


def _fault(details: Any, known: Collection[str] = ()) -> str:
    path = ".".join(str(part) for part in details["loc"])
    message = str(details["msg"])
    kind = details["type"]
    if kind == "missing":
        return f"{path} is missing"
    if kind == "extra_forbidden":
        near = get_close_matches(str(details["loc"][-1]), known, n=1)
        return f"{path} is not a field here" + (f" (did you mean {near[0]}?)" if near else "")
    if kind in ("value_error", "assertion_error"):
        message = message.split(", ", 1)[1]
        return f"{path}: {message}" if path else message
    message = message.replace("Input should", "must", 1)
    return f"{path or 'value'} {message}, got {_shown(details['input'])}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple | set):
        return "a list"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits has no repr
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "..."
