"""How far published serving runs are off by group, in sample and held out, beside the bar:
`python -m benchmarks.serving_groups TABLE.csv [ENGINE ...]`.

A group is the runs of one model in one precision under one engine record; halves are those that the record's constants
were fitted on and tested on (`benchmarks.fit_engines`). Records without fitted constants have only the second.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fit_engines import halves
from benchmarks.serving_bars import DENSE, SPARSE
from planner.cost.serving import PriceBook
from profiles import catalog
from validate.score.serving.fit_engine import log_errors, timed_settings
from validate.score.serving.resolve import ServedSetting
from validate.score.serving.table import read_rows


def main() -> None:
    """Print a line for each group, and one for each record's models with and without experts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("engines", nargs="*", help="engine records; all of the table's where none is named")
    asked = parser.parse_args()
    by_engine: defaultdict[str, list[ServedSetting]] = defaultdict(list)
    for one in timed_settings(read_rows(asked.table)):
        by_engine[one.engine.name].append(one)
    print(f"{'mean error of TTFT / TPOT, %':52}  {'in sample':>18}  {'held out':>18}  {'bar':>9}")
    for name in asked.engines or sorted(by_engine):
        for line in lines(name, by_engine[name]):
            print(line, flush=True)


def lines(name: str, settings: Sequence[ServedSetting]) -> Iterator[str]:
    """Of one record."""
    parts = halves(settings, 0) if catalog.engine(name).fit else ([], list(settings))
    book = PriceBook()
    errors: list[defaultdict[str, list[tuple[float, float]]]] = [defaultdict(list), defaultdict(list)]
    for part, found in zip(parts, errors, strict=True):
        for one in part:
            pair = log_errors(one, one.engine, book)
            for group in (one.kind, f"{one.model.name} {one.plan.expert_weights} {one.cluster.accelerator.name}"):
                found[group].append(pair)
    sparse = {one.kind for one in settings} - {"dense"}
    kinds = {f"{one.model.name} {one.plan.expert_weights} {one.cluster.accelerator.name}": one.kind for one in settings}
    for group in [*sorted({one.kind for one in settings}), *sorted(kinds)]:
        limits = SPARSE if kinds.get(group, group) in sparse else DENSE
        held_out = _means(errors[1][group])
        met = "" if held_out is None else "met" if np.all(held_out <= limits) else "MISSED"
        bar = f"{100 * limits[0]:.0f} / {100 * limits[1]:.0f}"
        print_in, print_out = (_words(found[group]) for found in errors)
        yield f"{name + ', ' + group:52}  {print_in:>18}  {print_out:>18}  {bar:>9} {met}"


def _means(pairs: Sequence[tuple[float, float]]) -> np.ndarray | None:
    return np.abs(np.exp(pairs) - 1.0).mean(axis=0) if pairs else None


def _words(pairs: Sequence[tuple[float, float]]) -> str:
    means = _means(pairs)
    return "-" if means is None else f"{100 * means[0]:5.1f} / {100 * means[1]:4.1f} ({len(pairs)})"


if __name__ == "__main__":
    main()
