"""Refit the error bars from a table of runs: `python -m benchmarks.fit_intervals TABLE.csv > residuals.toml`."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.leave_one_out import LeftOut, leave_one_out
from benchmarks.refit import fit, log_seconds
from planner.cost.intervals import axes_of
from profiles import catalog
from profiles.residuals import stack_kind
from validate.runs.pricing import priced
from validate.runs.readings import measured_bytes, predicted_bytes, reading_of
from validate.runs.resolve import Setting
from validate.runs.table import Run, read_runs
from validate.score.training import Scored, families, settings_of, source_of

LEVEL = 0.8
TAILS = np.linspace(0.14, 0.04, 21)
"""Share left outside at either end, largest first; a handful of sources does not tell of farther tails."""
OTHERS_SHARE = 0.2
"""What runs of other stacks and accelerators weigh beside those of one kind of stack on one accelerator."""
MIN_RUNS = 20
"""Fewer runs of one kind do not tell of a tenth of them at either end."""
NEAR = 1.5
"""Pairs of plans count whose predicted times are within this factor: farther ones are never in doubt."""
Floats = NDArray[np.float64]
Ratios = Mapping[str, Sequence[float]]
"""Measured over predicted, by source."""


def quantiles(ratios: Ratios, tail: float, others: Ratios | None = None) -> tuple[float, float]:
    """The quantiles that leave `tail` outside at either end; sources weigh as the root of their runs.

    `others` together weigh a share OTHERS_SHARE of `ratios`, or as much as they do if those are of one source.
    """
    values = np.concatenate([np.asarray(some) for some in (*ratios.values(), *(others or {}).values())])
    weights = _weights(ratios)
    if others:
        more = _weights(others)
        share = OTHERS_SHARE if len(ratios) > 1 else 1.0
        weights = np.concatenate([weights, more * (share * weights.sum() / more.sum())])
    order = np.argsort(values)
    rank = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    low, high = np.interp([tail, 1.0 - tail], rank, values[order])
    return float(low), float(high)


def _weights(ratios: Ratios) -> Floats:
    return np.concatenate([np.full(len(some), len(some) ** -0.5) for some in ratios.values()])


def coverage_by_source(ratios: Ratios, tail: float) -> dict[str, float]:
    """Share of the runs of each source inside the interval of the others; empty for a single source."""
    shares: dict[str, float] = {}
    for source, own in ratios.items():
        rest = {other: some for other, some in ratios.items() if other != source}
        if rest:
            low, high = quantiles(rest, tail)
            shares[source] = float(np.mean([low <= ratio <= high for ratio in own]))
    return shares


def left_out_coverage(ratios: Ratios, tail: float) -> float | None:
    """`coverage_by_source`, averaged over sources; None for a single source."""
    shares = coverage_by_source(ratios, tail)
    return float(np.mean(list(shares.values()))) if shares else None


def calibrated_tail(ratios: Ratios) -> float:
    """The largest tail at which sources left out are covered to the level; the plain one for fewer than three."""
    if len(ratios) < 3:
        return (1.0 - LEVEL) / 2.0
    enough = [tail for tail in TAILS if (left_out_coverage(ratios, tail) or 0.0) >= LEVEL]
    return float(enough[0] if enough else TAILS[-1])


def regimes(found: LeftOut) -> dict[str, dict[str, list[float]]]:
    """Ratios by group ("dense.seen", ...) and source."""
    table = found.table
    unmeasured = _unmeasured_seconds(found)
    groups: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, setting in enumerate(table.settings):
        kind = "sparse" if getattr(setting.job.model, "moe", None) is not None else "dense"
        predicted = {"new": found.seconds[row], "unmeasured": unmeasured[row]}
        if setting.cluster.accelerator.name in setting.cluster.kernels.accelerators:
            predicted["seen"] = np.exp(table.base[row])
        else:
            del predicted["new"]
        for regime, seconds in predicted.items():
            groups[f"{kind}.{regime}"][str(table.sources[row])].append(float(table.measured_seconds[row] / seconds))
    return {name: dict(groups[name]) for name in sorted(groups)}


def _unmeasured_seconds(found: LeftOut) -> Floats:
    """Steps predicted with the pool's kernels and with constants that no run on the accelerator had a part in."""
    table, pool = found.table, catalog.kernel_curves("")
    devices = np.array([setting.cluster.accelerator.name for setting in table.settings])
    seconds = np.zeros(len(devices))
    for device in dict.fromkeys(devices.tolist()):
        own = devices == device
        constants = fit(table, ~own)
        clusters = {id(table.settings[row].cluster): table.settings[row].cluster for row in np.flatnonzero(own)}
        pooled = {key: cluster.model_copy(update={"kernels": pool}) for key, cluster in clusters.items()}
        some = [table.settings[row] for row in np.flatnonzero(own)]
        changed = [constants.applied(replace(one, cluster=pooled[id(one.cluster)])) for one in some]
        seconds[own] = np.exp(log_seconds(changed))
    return seconds


def pairs(scored: Iterable[Scored], chosen: Callable[[Setting, Setting], bool]) -> tuple[dict[str, list[float]], int]:
    """How far pairs of one family miss their measured ratio, by source; and the number of families."""
    misses: defaultdict[str, list[float]] = defaultdict(list)
    num_families = 0
    for family in families(scored):
        found = [
            _ratio(one) / _ratio(other)
            for one, other in combinations(family, 2)
            if chosen(one.setting, other.setting)
            and 1.0 / NEAR <= one.predicted_seconds / other.predicted_seconds <= NEAR
        ]
        misses[source_of(family[0].run)] += [max(ratio, 1.0 / ratio) for ratio in found]
        num_families += bool(found)
    return {source: some for source, some in misses.items() if some}, num_families


def _ratio(row: Scored) -> float:
    return (row.measured_seconds or 0.0) / row.predicted_seconds


def same_split(one: Setting, other: Setting) -> bool:
    """Whether two plans split the model alike."""
    return all(getattr(one.plan, axis) == getattr(other.plan, axis) for axis in ("tp", "pp", "cp", "ep"))


def pair_table(name: str, misses: Ratios, num_families: int) -> str:
    """The TOML table of one kind of pairs: the level's quantile of their misses, which is one-sided."""

    def ratio(some: Ratios) -> float:
        return quantiles(some, 1.0 - LEVEL)[1]

    others = {source: {other: some for other, some in misses.items() if other != source} for source in misses}
    shares = [np.mean(np.array(misses[source]) <= ratio(rest)) for source, rest in others.items() if rest]
    coverage = f"left_out_coverage_fraction = {np.mean(shares):.2f}\n" if shares else ""
    return (
        f"\n[{name}]\nmiss_ratio = {ratio(misses):.3f}\nnum_pairs = {sum(map(len, misses.values()))}\n"
        f"num_families = {num_families}\nnum_sources = {len(misses)}\n{coverage}"
    )


def spread_table(name: str, ratios: Ratios) -> str:
    """The TOML table of one group of runs."""
    tail = calibrated_tail(ratios)
    low, high = quantiles(ratios, tail)
    covered = left_out_coverage(ratios, tail)
    return (
        f"\n[{name}]\nlow_ratio = {low:.3f}\nhigh_ratio = {high:.3f}\n"
        f"num_runs = {sum(map(len, ratios.values()))}\nnum_sources = {len(ratios)}\n"
        + (f"left_out_coverage_fraction = {covered:.2f}\n" if covered is not None else "")
    )


def memory_tables(runs: Sequence[Run]) -> str:
    """The TOML tables of peak memory, by what was read."""
    settings = [one for one in settings_of(runs)[0] if one.run.peak_memory_gb and not one.run.oom]
    groups: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for setting, answer in zip(settings, priced(settings), strict=True):
        reading = reading_of(setting.run)
        ratio = measured_bytes(setting.run) / predicted_bytes(answer.memory, setting.run)
        groups[reading][source_of(setting.run)].append(ratio)
    tables = []
    for reading, ratios in sorted(groups.items()):
        low, high = quantiles(ratios, (1.0 - LEVEL) / 2.0)
        tables.append(
            f"\n[memory.{reading}]\nlow_ratio = {low:.3f}\nhigh_ratio = {high:.3f}\n"
            f"num_runs = {sum(map(len, ratios.values()))}\nnum_sources = {len(ratios)}\n"
        )
    return "".join(tables)


def known_tables(found: LeftOut, seen: Mapping[str, Ratios]) -> str:
    """The TOML tables of what the runs of each kind of stack on each accelerator have in them."""
    table = found.table
    groups: defaultdict[tuple[str, bool, str, bool], list[int]] = defaultdict(list)
    for row, one in enumerate(table.settings):
        sparse = getattr(one.job.model, "moe", None) is not None
        groups[(*stack_kind(one.stack), one.cluster.accelerator.name, sparse)].append(row)
    text = ""
    for (attention, eager, accelerator, sparse), rows in sorted(groups.items()):
        own: defaultdict[str, list[float]] = defaultdict(list)
        for row in rows:
            own[str(table.sources[row])].append(float(table.measured_seconds[row] / np.exp(table.base[row])))
        ratios = ""
        if len(rows) >= MIN_RUNS:
            low, high = quantiles(own, (1.0 - LEVEL) / 2.0, seen["sparse" if sparse else "dense"])
            ratios = f"low_ratio = {low:.3f}\nhigh_ratio = {high:.3f}\n"
        some = [table.settings[row] for row in rows]
        text += (
            f"\n[[known]]\nstacks = {_list({one.stack.name for one in some})}\n"
            f'attention_kernel = "{attention}"\nis_eager = {str(eager).lower()}\n'
            f'accelerator = "{accelerator}"\nsparse = {str(sparse).lower()}\n'
            f"precisions = {_list({one.job.precision for one in some})}\n"
            f"axes = {_list({axis for one in some for axis in axes_of(one.plan)})}\n"
            f"max_devices = {max(one.plan.num_ranks for one in some)}\n"
            f"num_runs = {len(rows)}\nnum_sources = {len(own)}\n{ratios}"
        )
    return text


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in sorted(words)) + "]"


def main(path: Path) -> None:
    """Print the record for a table of runs."""
    runs = read_runs(path)
    found = leave_one_out(runs)
    scored = [
        Scored(one, answer, float(seconds))
        for one, answer, seconds in zip(
            found.table.settings, priced(found.table.settings), found.table.measured_seconds, strict=True
        )
    ]
    groups = regimes(found)
    print(
        'name = "residuals"\n'
        'source = "measured over predicted step times and memory of published training runs '
        '(python -m benchmarks.fit_intervals)"\n'
        f'date = "{datetime.now(UTC):%Y-%m-%d}"\nlevel_fraction = {LEVEL}\n'
        + "".join(spread_table(name, ratios) for name, ratios in groups.items())
        + pair_table("same_split", *pairs(scored, same_split))
        + pair_table("other_split", *pairs(scored, lambda one, other: not same_split(one, other)))
        + memory_tables(runs)
        + known_tables(found, {kind: groups[f"{kind}.seen"] for kind in ("dense", "sparse")}),
        end="",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
