"""Prints what training steps keep of benchmarked compute rates: `python -m benchmarks.fit_sustained TABLE.csv`.

For every accelerator and format with dense runs of a current stack in the table (columns as
`validate.runs.table.Run`): the factor on compute rates that makes the mean absolute log error of step times least,
and its error on sources that had no part in it (on the other half of the rows where there is one source). The
figures go into published_curves.toml.
"""

import sys
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from planner.cost.estimate import estimate
from profiles.calibration import Fit, Sustained
from validate.runs.resolve import Setting, Unmodelled, resolve
from validate.runs.table import read_runs
from validate.score.training import measured_seconds

FRACTIONS = np.arange(0.6, 1.1001, 0.02)
STACKS = ("nemo", "megatron-core", "megatron-core-no-overlap")
"""Of the same years as the benchmarks of kernels; older stacks have other gaps between kernels."""
Floats = NDArray[np.float64]


def main(path: str) -> None:
    """Print one line an accelerator and format."""
    errors: defaultdict[tuple[str, str], list[tuple[str, Floats]]] = defaultdict(list)
    for run in read_runs(path):
        try:
            setting = resolve(run)
        except Unmodelled:
            continue
        seconds = measured_seconds(run)
        if seconds is not None and setting.stack.name in STACKS and getattr(setting.job.model, "moe", None) is None:
            source = run.id.rsplit("-", 1)[0]
            key = (setting.cluster.accelerator.name, setting.job.precision)
            errors[key].append((source, np.log(_predictions(setting) / seconds)))
    for (name, dtype), rows in sorted(errors.items()):
        best = _least([error for _, error in rows])
        held_out = _held_out(rows)
        print(
            f"{name} {dtype}: fraction {FRACTIONS[best]:.2f}, {len(rows)} runs, mean error "
            f"{np.mean([abs(error[best]) for _, error in rows]):.4f}, held out: median {np.median(held_out):.4f}, "
            f"p90 {np.quantile(held_out, 0.9):.4f}"
        )


def _predictions(setting: Setting) -> Floats:
    seconds = []
    for fraction in FRACTIONS:
        sustained = Sustained(fraction=fraction, fit=Fit(machine="", date="", num_points=0, source="trial"))
        kernels = setting.cluster.kernels.model_copy(update={"sustained": {setting.job.precision: sustained}})
        cluster = setting.cluster.model_copy(update={"kernels": kernels})
        seconds.append(estimate(setting.plan, setting.job, cluster, setting.stack).step_seconds)
    return np.array(seconds, dtype=float)


def _least(errors: list[Floats]) -> int:
    return int(np.abs(np.array(errors)).mean(axis=0).argmin())


def _held_out(rows: list[tuple[str, Floats]]) -> list[float]:
    """Absolute log errors of each source with the factor fitted on the others."""
    sources = sorted({source for source, _ in rows})
    if len(sources) < 2:
        rows = [(str(index % 2), error) for index, (_, error) in enumerate(rows)]
        sources = ["0", "1"]
    found = []
    for source in sources:
        best = _least([error for other, error in rows if other != source])
        found += [float(abs(error[best])) for other, error in rows if other == source]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
