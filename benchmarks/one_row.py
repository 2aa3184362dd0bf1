"""What one measured run of one's own is worth: `python -m benchmarks.one_row TABLE.csv [ENGINE ...]`.

Of every model, device and engine record with at least six runs, the record's constants are fitted to single runs, as
`meshwise calibrate --from-run` does, and tested on the group's others. Prints mean errors of TTFT and TPOT before and
after, and how many of the fits made either worse; the last line is the median over fits.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from planner.cost.serving import PriceBook
from profiles.engine import EngineRecord
from validate.score.serving.fit_engine import fit_engine, log_errors, timed_settings
from validate.score.serving.resolve import ServedSetting
from validate.score.serving.table import read_rows

LEAST_RUNS, MOST_TESTED, LARGEST_CONCURRENCY = 6, 16, 128
QUANTILES = (0.25, 0.75)
"""Which runs are fitted to, by concurrency within their group."""


def main() -> None:
    """Print a line a group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("engines", nargs="*")
    asked = parser.parse_args()
    groups: defaultdict[tuple[str, str, str], list[ServedSetting]] = defaultdict(list)
    for one in timed_settings(read_rows(asked.table)):
        if (one.row.concurrency or 0) <= LARGEST_CONCURRENCY and one.engine.name in (
            asked.engines or [one.engine.name]
        ):
            groups[one.engine.name, one.model.name, one.cluster.accelerator.name].append(one)
    everything = []
    for name, settings in sorted(groups.items()):
        if len(settings) >= LEAST_RUNS:
            found = np.array(list(fits(settings)))
            everything.append(found)
            print(_line(" ".join(name), found, np.mean), flush=True)
    print(_line("median over fits", np.concatenate(everything), np.median))


def fits(settings: Sequence[ServedSetting]) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """((TTFT, TPOT) before, after) on the other runs of a group, of each run that is fitted to."""
    ordered = sorted(settings, key=lambda one: (one.row.concurrency or 0, one.row.input_tokens))
    for place in QUANTILES:
        chosen = ordered[int(place * (len(ordered) - 1))]
        others = [one for one in ordered if one is not chosen]
        tested = others[:: -(-len(others) // MOST_TESTED)]
        engine = fit_engine(chosen.engine, [chosen])
        yield _errors(chosen.engine, tested), _errors(engine, tested)


def _errors(engine: EngineRecord, settings: Sequence[ServedSetting]) -> tuple[float, float]:
    book = PriceBook()
    ttft, tpot = np.abs(np.expm1([log_errors(one, engine, book) for one in settings])).mean(axis=0)
    return float(ttft), float(tpot)


def _line(name: str, found: np.ndarray, over: np.ufunc) -> str:
    before, after = over(found, axis=0)
    worse = (found[:, 1] > found[:, 0]).sum(axis=0)
    figures = "   ".join(
        f"{metric} {before[at]:6.1%} -> {after[at]:6.1%} ({worse[at]} of {len(found)} worse)"
        for at, metric in enumerate(("TTFT", "TPOT"))
    )
    return f"{name:44} {figures}"


if __name__ == "__main__":
    main()
