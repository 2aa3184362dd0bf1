"""Refit the error bars from a table of runs: `python -m benchmarks.fit_intervals TABLE.csv > residuals.toml`."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from validate.score import score_training

LEVEL = 0.8
MIN_SOURCES = 2
"""An accelerator with runs of fewer sources takes the pool: one source tells of itself."""

Ratios = Mapping[str, Sequence[float]]
"""Measured over predicted step time, by source."""


def quantiles(ratios: Ratios) -> tuple[float, float]:
    """The quantiles that leave (1 - LEVEL) / 2 outside at either end; sources weigh as the root of their runs."""
    values = np.concatenate([np.asarray(some) for some in ratios.values()])
    weights = np.concatenate([np.full(len(some), len(some) ** -0.5) for some in ratios.values()])
    order = np.argsort(values)
    rank = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    low, high = np.interp([(1 - LEVEL) / 2, (1 + LEVEL) / 2], rank, values[order])
    return float(low), float(high)


def left_out_coverage(ratios: Ratios) -> float:
    """Coverage of each source by the interval of the others, averaged over sources."""
    shares = []
    for source, own in ratios.items():
        low, high = quantiles({other: some for other, some in ratios.items() if other != source})
        shares.append(np.mean([low <= ratio <= high for ratio in own]))
    return float(np.mean(shares))


def table(name: str, ratios: Ratios) -> str:
    """The TOML table of one group."""
    low, high = quantiles(ratios)
    return (
        f"\n[{name}]\nlow_ratio = {low:.3f}\nhigh_ratio = {high:.3f}\n"
        f"num_runs = {sum(map(len, ratios.values()))}\nnum_sources = {len(ratios)}\n"
        f"left_out_coverage_fraction = {left_out_coverage(ratios):.2f}\n"
    )


def grouped(table: Path) -> dict[str, dict[str, list[float]]]:
    """Ratios by group ("dense.h100-sxm", "sparse.pool", ...) and source."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in score_training(table).scored:
        if row.measured_seconds is not None:
            setting, source = row.setting, row.run.id.rsplit("-", 1)[0]
            kind = "sparse" if getattr(setting.job.model, "moe", None) else "dense"
            for name in ("pool", setting.cluster.accelerator.name):
                groups[f"{kind}.{name}"][source].append(row.measured_seconds / row.predicted_seconds)
    return groups


def main() -> None:
    """Print the record for the table named on the command line."""
    groups = grouped(Path(sys.argv[1]))
    enough = {name: ratios for name, ratios in sorted(groups.items()) if len(ratios) >= MIN_SOURCES}
    print(
        'name = "residuals"\n'
        'source = "measured over predicted step times of published training runs (`meshwise score training`)"\n'
        f'date = "{datetime.now(UTC):%Y-%m-%d}"\nlevel_fraction = {LEVEL}\n'
        + "".join(table(name, ratios) for name, ratios in enough.items()),
        end="",
    )


if __name__ == "__main__":
    main()
