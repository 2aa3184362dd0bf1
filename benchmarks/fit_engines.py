"""Fits the constants of an engine record on one half of a table of serving runs and tests them on the other:
`python -m benchmarks.fit_engines TABLE.csv ENGINE [CONSTANT ...]`.

Rows that describe the same run count once (their median). Halves are drawn by deployment and lengths within each model
and device: all loads of one are in the same half, and neither lacks a model. `--without NAME` leaves a model or device
out of the fit and tests on it alone. The loss is the mean of |ln(predicted / measured)| of TTFT plus twice that of
TPOT, each capped, so that a few mislabelled rows do not rule.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from planner.cost.serving import PriceBook
from profiles import catalog
from profiles.engine import EngineRecord
from validate.score.serving.constants import SMALLEST_SECONDS
from validate.score.serving.fit_engine import (
    CAP,
    CONSTANTS,
    constant_of,
    log_errors,
    timed_settings,
    with_constants,
)
from validate.score.serving.resolve import ServedSetting
from validate.score.serving.table import read_rows

LARGEST_CONCURRENCY = 128
"""Longer runs are left to the test: they take long to play."""
MOST_ROWS, NUM_TRIES = 40, 120


def main() -> None:
    """Print the constants, and errors on both halves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("engine")
    parser.add_argument("constants", nargs="*", default=CONSTANTS)
    parser.add_argument("--dense", action="store_true", help="only models without experts")
    parser.add_argument("--without", metavar="NAME", help="a model or device to test on, and not to fit to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--as-is", action="store_true", help="fit nothing: report the record's own constants")
    asked = parser.parse_args()
    engine = catalog.engine(asked.engine)
    settings = timed_settings(read_rows(asked.table), engine.name)
    settings = [one for one in settings if not (asked.dense and one.model.moe)]
    train, test = without(settings, asked.without) if asked.without else halves(settings, asked.seed)
    short = [one for one in train if (one.row.concurrency or 0) <= LARGEST_CONCURRENCY]
    order = np.random.default_rng(0).permutation(len(short))[:MOST_ROWS]
    fitted = engine if asked.as_is else fit(engine, asked.constants, [short[index] for index in order])
    for name in asked.constants:
        print(f"{name} = {constant_of(fitted, name):.3g}")
    for words, part in (("fitted on", train), ("held out", test)):
        for kind, errors in report(fitted, part).items():
            print(f"{words:>9} {kind:40} {errors}")


Settings = list[ServedSetting]


def halves(settings: Sequence[ServedSetting], seed: int) -> tuple[Settings, Settings]:
    """Every second deployment of a random order, within each model and device, with all its loads."""
    draw = np.random.default_rng(seed)
    groups: defaultdict[tuple[str, str], defaultdict[tuple[object, ...], Settings]]
    groups = defaultdict(lambda: defaultdict(list))
    for one in settings:
        deployment = (one.plan_text, one.row.engine_version, one.row.input_tokens, one.row.output_tokens)
        groups[(one.model.name, one.cluster.accelerator.name)][deployment].append(one)
    parts: tuple[Settings, Settings] = ([], [])
    for group in groups.values():
        deployments = list(group.values())
        for place, index in enumerate(draw.permutation(len(deployments))):
            parts[place % 2].extend(deployments[index])
    return parts


def without(settings: Sequence[ServedSetting], name: str) -> tuple[Settings, Settings]:
    """All but those of a model or device, and those."""
    left = [name in (one.model.name, one.cluster.accelerator.name) for one in settings]
    pairs = list(zip(settings, left, strict=True))
    return [one for one, out in pairs if not out], [one for one, out in pairs if out]


def fit(engine: EngineRecord, names: Sequence[str], settings: Sequence[ServedSetting]) -> EngineRecord:
    """`engine` with the named constants of least loss, by Nelder-Mead over their logarithms."""
    book = PriceBook()
    first = np.log([max(constant_of(engine, name), SMALLEST_SECONDS) for name in names])

    def loss(logarithms: np.ndarray) -> float:
        tried = with_constants(engine, dict(zip(names, np.exp(logarithms), strict=True)))
        errors = np.abs([log_errors(one, tried, book) for one in settings])
        return float(np.mean(np.minimum(errors, CAP) @ np.array([1.0, 2.0])))

    simplex = np.vstack([first, first + 0.4 * np.eye(len(first))])
    found = minimize(loss, first, method="Nelder-Mead", options={"maxfev": NUM_TRIES, "initial_simplex": simplex})
    return with_constants(engine, dict(zip(names, np.exp(found.x), strict=True)))


def report(engine: EngineRecord, settings: Sequence[ServedSetting]) -> dict[str, str]:
    """By model and device, and of all: mean, median and p90 absolute errors, and bias."""
    book = PriceBook()
    groups: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in settings:
        pair = log_errors(one, engine, book)
        for name in ("all", f"{one.model.name} {one.plan.expert_weights} {one.cluster.accelerator.name}"):
            groups[name].append(pair)
    return {name: f"n {len(pairs):3d}  " + _words(np.exp(np.array(pairs)) - 1.0) for name, pairs in groups.items()}


def _words(errors: np.ndarray) -> str:
    return "   ".join(
        f"{name} {np.abs(column).mean():.3f} median {np.median(np.abs(column)):.3f} "
        f"p90 {np.quantile(np.abs(column), 0.9):.3f} bias {np.median(column):+.3f}"
        for name, column in zip(("TTFT", "TPOT"), errors.T, strict=True)
    )


if __name__ == "__main__":
    main()
