"""Prints the errors of every source without its own runs: `python -m benchmarks.leave_one_out TABLE.csv`.

For each source of the table (columns as `validate.runs.table.Run`; the prefix of an id names it) the constants that
step times may set (`benchmarks.constants`) are fitted anew on the other sources, and its runs are predicted with
them. Beside it the error with the shipped constants, which its runs may have had a part in.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from benchmarks.constants import CONSTANTS
from benchmarks.refit import Fitted, Table, fit, log_seconds, tabulate
from validate.runs.table import Run, read_runs
from validate.score.agreement import Errors
from validate.score.training import measured_seconds, settings_of, source_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Predicted steps of a table's runs, each with constants that its source had no part in."""

    table: Table
    seconds: Floats
    """Shape (runs,)."""
    fitted: dict[str, Fitted]
    """By the source left out."""
    everything: Fitted
    """With all sources."""


def leave_one_out(runs: Sequence[Run]) -> LeftOut:
    """Fit without each source in turn, and predict it."""
    settings, _ = settings_of(runs)
    timed = [one for one in settings if measured_seconds(one.run) is not None]
    measured = [measured_seconds(one.run) or 0.0 for one in timed]
    table = tabulate(timed, measured, [source_of(one.run) for one in timed])
    seconds = np.zeros(len(timed))
    fitted = {}
    for source in dict.fromkeys(table.sources.tolist()):
        own = table.sources == source
        fitted[source] = fit(table, ~own)
        changed = [fitted[source].applied(table.settings[index]) for index in np.flatnonzero(own)]
        seconds[own] = np.exp(log_seconds(changed))
    return LeftOut(table, seconds, fitted, fit(table, np.ones(len(timed), dtype=bool), with_spreads=True))


def _errors(found: LeftOut, own: NDArray[np.bool_]) -> tuple[Errors, Errors]:
    measured = found.table.measured_seconds[own].tolist()
    shipped = Errors.of(np.exp(found.table.base[own]).tolist(), measured)
    return shipped, Errors.of(found.seconds[own].tolist(), measured)


def print_sources(found: LeftOut) -> None:
    """Error of every source in sample and left out."""
    print("| source | n | shipped % | bias | left out % | bias |\n|---|--:|--:|--:|--:|--:|")
    sources = found.table.sources
    for source in dict.fromkeys(sources.tolist()):
        shipped, left_out = _errors(found, sources == source)
        cells = [f"{100 * (value or 0.0):.1f}" for value in (shipped.mape, shipped.bias, left_out.mape, left_out.bias)]
        print(f"| {source} | {shipped.n} | {' | '.join(cells)} |")


def print_constants(found: LeftOut) -> None:
    """Every constant: shipped, fitted on all sources, and its range over fits that leave one out."""
    print("\n| constant | of | shipped | all sources | without one source | told by runs |\n|---|---|--:|--:|--:|---|")
    for constant in CONSTANTS:
        for slot, value in found.everything.values.items():
            if slot[0] != constant.name:
                continue
            having = [one for one in found.table.settings if constant.slot(one) == slot[1]]
            shipped = f"{constant.value(having[0]):.3g}" if having else ""
            without = [one.values[slot] for one in found.fitted.values() if slot in one.values]
            told = "yes" if found.everything.is_identified(slot) else "no: prior"
            name = " ".join(slot[1]) if isinstance(slot[1], tuple) else slot[1]
            print(
                f"| {constant.name} | {name} | {shipped} | {value:.3g} | {min(without):.3g} .. {max(without):.3g} "
                f"| {told} (x{exp(found.everything.spreads[slot]):.2f}) |"
            )


def main(arguments: list[str]) -> None:
    """Print both tables for the table of runs named on the command line."""
    found = leave_one_out(read_runs(arguments[0]))
    print_sources(found)
    print_constants(found)


if __name__ == "__main__":
    main(sys.argv[1:])
