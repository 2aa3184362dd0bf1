"""Files that say when each request of a server came, when its first token was there, and when its last.

Three layouts are read: JSON lines of an engine's own times (`queued_ts`, `first_token_ts`, `last_token_ts`,
`input_toks`, `output_toks`), as LLMServingSim records vLLM [github.com/casys-kaist/LLMServingSim bench, MIT];
the result file of `vllm bench serve --save-result --save-detailed`, whose times are the client's; and CSV with
`arrival_s`, `first_token_s`, `last_token_s`, `input_tokens` and `output_tokens`, at a client too.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.serving.requests import Floats
from validate.runs.table import BadTable

_ENGINE_COLUMNS = ("queued_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks")
_CLIENT_COLUMNS = ("arrival_s", "first_token_s", "last_token_s", "input_tokens", "output_tokens")
_DETAILS = ("start_times", "ttfts", "itls", "input_lens", "output_lens")
_MAX_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Columns over requests in order of arrival, in seconds from the first one's arrival on."""

    queued_seconds: Floats
    first_token_seconds: Floats
    last_token_seconds: Floats
    num_input_tokens: Floats
    num_output_tokens: Floats
    at_client: bool
    """Seen by a client, so that the engine's front end is in the times."""

    def __len__(self) -> int:
        return len(self.queued_seconds)

    def times(self) -> dict[str, Floats]:
        """ "ttft", "tpot" and "e2e" of every request."""
        return times_of(self, self.first_token_seconds, self.last_token_seconds)


def times_of(asked: RequestTimes, first_token_seconds: Floats, last_token_seconds: Floats) -> dict[str, Floats]:
    """ "ttft", "tpot" and "e2e" of requests answered at these times; TPOT of answers of one token is no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "ttft": first_token_seconds - asked.queued_seconds,
            "tpot": (last_token_seconds - first_token_seconds) / (asked.num_output_tokens - 1.0),
            "e2e": last_token_seconds - asked.queued_seconds,
        }


def is_log(path: Path) -> bool:
    """Whether a file holds single requests rather than a table or one run; a folder does."""
    match path.suffix:
        case ".csv":
            return _CLIENT_COLUMNS[0] in _beginning(path)
        case ".json":
            return f'"{_DETAILS[1]}"' in _beginning(path, whole=True)
    return path.suffix == ".jsonl" or path.is_dir()


def requests_file(path: Path) -> Path:
    """The file of requests that a folder holds, or the file itself."""
    return path / "requests.jsonl" if path.is_dir() else path


def read_times(path: Path) -> RequestTimes:
    """The requests of a log; raises BadTable naming the file, the line and what is wrong with it."""
    text = _text(path)
    match path.suffix:
        case ".json":
            rows, at_client = list(_detailed_rows(text, path)), True
        case ".csv":
            rows, at_client = list(_csv_rows(text, path)), True
        case _:
            rows, at_client = list(_json_rows(text, path)), False
    if not rows:
        raise BadTable(f"{path}: no requests")
    table = np.array(rows)
    table = table[np.argsort(table[:, 0], kind="stable")]
    table[:, :3] -= table[0, 0]
    queued, first, last, inputs, outputs = table.T
    return RequestTimes(queued, first, last, inputs, outputs, at_client)


def _beginning(path: Path, *, whole: bool = False) -> str:
    """The first line, or all of it; "" where it cannot be read, which its reader then says."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_MAX_BYTES) if whole else file.readline(_MAX_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadTable(f"{path}: more than {_MAX_BYTES:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTable(f"{path}: cannot be read: {error}") from None


def _json_rows(text: str, path: Path) -> Iterator[list[float]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                request = json.loads(line)
            except ValueError as error:
                raise BadTable(f"{path}: line {number}: {error}") from None
            yield _row(request, _ENGINE_COLUMNS, f"{path}: line {number}")


def _csv_rows(text: str, path: Path) -> Iterator[list[float]]:
    for number, request in enumerate(csv.DictReader(text.splitlines()), start=2):
        yield _row(request, _CLIENT_COLUMNS, f"{path}: line {number}")


def _detailed_rows(text: str, path: Path) -> Iterator[list[float]]:
    """Requests of one benchmark; those that failed have no first token and are left out."""
    try:
        found = json.loads(text)
        columns = [found[name] for name in _DETAILS]
        requests = list(zip(*columns, strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise BadTable(
            f"{path}: {error}; a result of vllm bench serve needs --save-detailed, which writes {', '.join(_DETAILS)}"
        ) from None
    for number, (start, ttft, gaps, inputs, outputs) in enumerate(requests, start=1):
        if ttft:
            first = start + ttft
            values = dict(zip(_CLIENT_COLUMNS, (start, first, first + sum(gaps), inputs, outputs), strict=True))
            yield _row(values, _CLIENT_COLUMNS, f"{path}: request {number}")


def _row(request: Any, columns: Sequence[str], where: str) -> list[float]:
    try:
        row = [float(request[name]) for name in columns]
    except (ValueError, KeyError, TypeError) as error:
        raise BadTable(f"{where}: {error}; every request has {', '.join(columns)}") from None
    if not (row[0] < row[1] <= row[2] < float("inf") and min(row[3:]) >= 1.0):
        raise BadTable(f"{where}: times and tokens of a request are in no order that can be")
    return row
