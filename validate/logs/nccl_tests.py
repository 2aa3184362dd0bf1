"""Reads what nccl-tests (and rccl-tests) print: tables of sizes and times, one a collective.

The text may carry the prefixes of mpirun or srun, lines of NCCL's own log between the rows, several tables, and an
elided list of devices. Times are of out-of-place buffers.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner.cost.collectives import COLLECTIVES
from profiles.calibration import CollectiveOp
from profiles.files import BadFile
from profiles.units import MICRO
from validate.logs.message import MeasuredMessage, Skipped

_OPS: dict[str, CollectiveOp] = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all", "sendrecv": "send_recv",
}  # fmt: skip
"""What the programs are called -> the planner's collectives."""
_PROGRAM = re.compile(r"\b([a-z]+(?:_[a-z]+)*)_perf(?:_mpi)?\b")
_STARTING = "Collective test starting:"
_RANK = re.compile(r"#\s*Rank\s+(\d+)\s.*?\bon\s+(\S+)\s+device\s+(\d+)\s+\[[^\]]*\]\s+(\S.*?)\s*$")
_NEW_RUN = re.compile(r"#\s*nThread\s+\d+\s+nGpus\s+\d+")
_ROW = re.compile(r"(\d+)\s+\d+\s+[a-z]\w*\s+(\S.*)$")
"""Size (then count and type), and the rest of a row."""
_COLUMNS = 4
"""time, algbw, busbw and #wrong, once for out-of-place buffers and once for those in place."""
_BUS_TOLERANCE = 0.05
"""How far the bus bandwidth of a row may be from that of its ranks."""
_LEAST_BANDWIDTH = 1.0
"""Printed rates below this are rounded too coarsely to be compared."""


@dataclass(frozen=True, slots=True)
class _Row:
    num_bytes: float
    seconds: float
    algorithm_rate: float
    bus_rate: float
    """Both in GB/s, as printed."""
    wrong: int


@dataclass(slots=True)
class _Run:
    """One table, and what was said before it."""

    op: str
    hosts: list[str] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NcclLog:
    """All measurements of one or more files."""

    messages: tuple[MeasuredMessage, ...]
    device_names: tuple[str, ...]
    """The devices of all runs, each name once."""
    skipped: Skipped


def read_nccl_tests(paths: Sequence[Path]) -> NcclLog:
    """The measurements of `paths`.

    Raises BadFile when a file cannot be read, holds no table of nccl-tests, or has none that can be used.
    """
    reader = _Reader()
    for path in paths:
        before = len(reader.messages)
        reader.read(path)
        if len(reader.messages) == before:
            why = "; ".join(reader.skipped.reasons) or "expected the text output of all_reduce_perf and its like"
            raise BadFile(f"{path}: no usable row of nccl-tests in it: {why}")
    return NcclLog(tuple(reader.messages), tuple(dict.fromkeys(reader.device_names)), reader.skipped)


class _Reader:
    def __init__(self) -> None:
        self.messages: list[MeasuredMessage] = []
        self.device_names: list[str] = []
        self.skipped = Skipped()

    def read(self, path: Path) -> None:
        """Every table of one file; the file's name tells the collective if nothing inside does."""
        run = _Run(op=_program_in(path.stem.lower()))
        for line in _lines(path):
            program = _program_in(line)
            rank = _RANK.search(line)
            if program and (program != run.op or _STARTING in line):
                run = self._next(run, program)
            elif _NEW_RUN.search(line) or (rank and run.rows):
                run = self._next(run, run.op)
            if rank:
                run.ranks.append(int(rank[1]))
                run.hosts.append(rank[2])
                run.devices.append(int(rank[3]))
                self.device_names.append(rank[4])
            elif (found := _ROW.search(line)) and (row := _row(*found.groups())):
                run.rows.append(row)
        self._next(run, "")

    def _next(self, run: _Run, program: str) -> _Run:
        """Take what `run` holds, and begin one of `program`."""
        op, group = _OPS.get(run.op), _group(run)
        if run.rows and (op is None or group is None or not _agrees(run.rows, op, group[0])):
            self.skipped.add(_why_not(run, op, group), len(run.rows))
        elif op is not None and group is not None:
            self._take(run.rows, op, *group)
        return _Run(op=program)

    def _take(self, rows: Iterable[_Row], op: CollectiveOp, num_ranks: int, num_hosts: int) -> None:
        for row in rows:
            if row.wrong:
                self.skipped.add("rows whose results were wrong")
            elif row.num_bytes <= 0.0 or row.seconds <= 0.0:
                self.skipped.add("rows without bytes or time")
            else:
                self.messages.append(MeasuredMessage(op, num_ranks, num_hosts, row.num_bytes, row.seconds))


def _why_not(run: _Run, op: CollectiveOp | None, group: tuple[int, int] | None) -> str:
    if op is None:
        named = f"rows of {run.op}_perf, which no plan uses"
        return named if run.op else "rows of an unnamed test (call the file all_reduce_perf.txt)"
    if group is None:
        return "rows of ranks that ran alone or are not listed"
    return f"rows whose bus bandwidth is not that of the {group[0]} ranks listed"


def _agrees(rows: Sequence[_Row], op: CollectiveOp, num_ranks: int) -> bool:
    """Whether the bus bandwidth of the fastest row is that of `num_ranks`; slow ones are printed too coarsely."""
    best = max(rows, key=lambda row: row.bus_rate)
    expected = float(COLLECTIVES[op].wire_bytes(1.0, float(num_ranks), 1.0))
    return best.bus_rate < _LEAST_BANDWIDTH or (
        abs(best.bus_rate / best.algorithm_rate / expected - 1.0) <= _BUS_TOLERANCE
    )


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None


def _program_in(line: str) -> str:
    """The test that a line names: a command, or the line with which a run starts (not the one that ends it)."""
    if "concluded" in line:
        return ""
    found = _PROGRAM.search(line.partition(_STARTING)[2] or line)
    return found.group(1) if found else ""


def _row(size: str, rest: str) -> _Row | None:
    """A row of the table by the first of its buffers; None for a line that only looks like one."""
    words = rest.split()
    if words and re.fullmatch(r"[a-z]\w*", words[0]):
        words = words[1:]  # the reduction
    if len(words) % _COLUMNS == 1:
        words = words[1:]  # the root
    if len(words) not in (_COLUMNS, 2 * _COLUMNS):
        return None
    try:
        time, algorithm_rate, bus_rate = (float(word) for word in words[:3])
        wrong = 0 if words[3] == "N/A" else int(float(words[3]))
    except (ValueError, OverflowError):
        return None
    return _Row(float(size), time * MICRO, algorithm_rate, bus_rate, wrong)


def _group(run: _Run) -> tuple[int, int] | None:
    """(ranks, hosts) of a run; None where no group can be told, or each rank was a group of its own.

    Documents elide the middle of the list of devices; hosts then follow from the devices that a host numbers.
    """
    if not run.ranks:
        return None
    num_ranks = max(run.ranks) + 1
    num_hosts = len(set(run.hosts))
    if len(run.ranks) < num_ranks:
        num_hosts = -(-num_ranks // (max(run.devices) + 1))
    elif len(run.ranks) > num_ranks:
        return None
    return (num_ranks, num_hosts) if num_ranks > 1 and num_ranks % num_hosts == 0 else None


__all__ = ["NcclLog", "read_nccl_tests"]
