"""Predicted against measured over a table of training runs, with the naive baseline beside it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.cost.estimate import Estimate
from planner.cost.intervals import Interval, interval
from planner.plan import Recompute
from planner.work.layers import model_flops
from validate.runs.clusters import Own
from validate.runs.least import is_too_big
from validate.runs.pricing import priced
from validate.runs.readings import measured_bytes, predicted_bytes, reading_of
from validate.runs.resolve import Setting, Unmodelled, resolve
from validate.runs.table import Run, read_runs
from validate.score.agreement import Errors, Ranking, confusion

SCHEMA_VERSION = 1
FULL_RECOMPUTE_FACTOR = 4.0 / 3.0
"""Forward, forward again and twice the forward backward, over forward and backward."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One row: what was measured, and what the planner says of it."""

    setting: Setting
    estimate: Estimate
    measured_seconds: float | None
    """None for a row that only tells of memory."""

    @property
    def run(self) -> Run:
        """The row."""
        return self.setting.run

    @property
    def predicted_seconds(self) -> float:
        """Predicted step time."""
        return float(self.estimate.step_seconds)

    @property
    def interval(self) -> Interval:
        """The error bar of the prediction."""
        setting = self.setting
        return interval(self.predicted_seconds, setting.plan, setting.job, setting.cluster, setting.stack)

    @property
    def is_inside(self) -> bool:
        """Whether the measured time lies inside the error bar."""
        assert self.measured_seconds is not None
        bar = self.interval
        return bool(bar.low_seconds <= self.measured_seconds <= bar.high_seconds)


@dataclass(frozen=True, slots=True)
class Score:
    """The score board of one table."""

    overall: Errors
    by_source: dict[str, Errors]
    """By the prefix of the rows' ids, which names their source."""
    by_accelerator: dict[str, Errors]
    baseline: Errors
    """One constant hardware utilisation for the whole table, fitted on it (its median)."""
    baseline_utilisation_fraction: float | None
    baseline_by_source: dict[str, Errors]
    """One constant for each source, fitted on it."""
    memory: dict[str, Errors]
    """By what the source read: "allocated", "reserved" or "device"; and "overall"."""
    oom: dict[str, int]
    ranking: Ranking
    skipped: dict[str, int]
    """Reason -> number of rows."""
    rows: tuple[dict[str, Any], ...] | None = None
    scored: tuple[Scored, ...] = field(default=(), repr=False)
    """Every scored row, for those who look closer."""

    def as_dict(self) -> dict[str, Any]:
        """The board as plain values, with the keys of `meshwise score --json`."""
        board: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "overall": self.overall.as_dict(),
            "by_source": _as_dicts(self.by_source),
            "by_accelerator": _as_dicts(self.by_accelerator),
            "baseline": self.baseline.as_dict()
            | {"utilisation": self.baseline_utilisation_fraction, "by_source": _as_dicts(self.baseline_by_source)},
            "memory": _as_dicts(self.memory),
            "oom": self.oom,
            "ranking": self.ranking.as_dict(),
            "skipped": self.skipped,
        }
        return board if self.rows is None else board | {"rows": list(self.rows)}


def score_training(
    table_path: str | Path, *, rows: bool = False, on_progress: Callable[[int, int], None] | None = None,
    own: Own = MappingProxyType({}),
) -> Score:  # fmt: skip
    """Predict every run of a table that can be modelled, and compare.

    `on_progress(done, total)` is called as rows are done with. Raises BadTable with file, line and column.
    """
    return score_runs(read_runs(table_path), rows=rows, on_progress=on_progress, own=own)


def score_runs(
    runs: Sequence[Run], *, rows: bool = False, on_progress: Callable[[int, int], None] | None = None,
    own: Own = MappingProxyType({}),
) -> Score:  # fmt: skip
    """As `score_training`, of runs already read; `own` clusters stand for those of the catalog."""
    settings, skipped = settings_of(runs, own)
    done = len(runs) - len(settings)

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_progress is not None:
            on_progress(done, len(runs))

    count(0)
    scored = [
        Scored(setting, found, measured_seconds(setting.run))
        for setting, found in zip(settings, priced(settings, count), strict=True)
    ]
    return _board(scored, skipped, rows)


def settings_of(runs: Iterable[Run], own: Own = MappingProxyType({})) -> tuple[list[Setting], dict[str, int]]:
    """The settings of the runs that can be modelled and tell a figure; and how many cannot, by reason."""
    settings: list[Setting] = []
    skipped: Counter[str] = Counter()
    for run in runs:
        try:
            setting = resolve(run, own)
        except Unmodelled as reason:
            skipped[str(reason)] += 1
            continue
        if measured_seconds(run) is None and not run.peak_memory_gb and not run.oom:
            skipped["no iteration time"] += 1
        else:
            settings.append(setting)
    return settings, dict(skipped.most_common())


def measured_seconds(run: Run) -> float | None:
    """The step time of a run, from its tokens per second if that is what the source gives."""
    if run.oom:
        return None
    if run.iteration_time_s:
        return run.iteration_time_s
    if run.tokens_per_s_per_gpu and run.num_accelerators and run.global_batch_seqs and run.seq_len:
        return run.global_batch_seqs * run.seq_len / (run.tokens_per_s_per_gpu * run.num_accelerators)
    return None


def _board(scored: list[Scored], skipped: dict[str, int], rows: bool) -> Score:
    timed = [row for row in scored if row.measured_seconds is not None]
    utilisation, naive = constant_utilisation(timed)
    sources = _grouped(timed, _source)
    return Score(
        overall=_errors(timed),
        by_source={name: _errors(group) for name, group in sources.items()},
        by_accelerator={name: _errors(group) for name, group in _grouped(timed, _accelerator).items()},
        baseline=naive,
        baseline_utilisation_fraction=utilisation,
        baseline_by_source={name: constant_utilisation(group)[1] for name, group in sources.items()},
        memory=_memory(scored),
        oom=_out_of_memory(scored),
        ranking=Ranking.of([
            ([row.predicted_seconds for row in family], [row.measured_seconds or 0.0 for row in family])
            for family in families(timed)
        ]),
        skipped=skipped,
        rows=tuple(_row(row) for row in timed) if rows else None,
        scored=tuple(scored),
    )  # fmt: skip


def _errors(rows: Sequence[Scored]) -> Errors:
    return Errors.of(
        [row.predicted_seconds for row in rows],
        [row.measured_seconds or 0.0 for row in rows],
        [row.is_inside for row in rows],
    )


def _row(row: Scored) -> dict[str, Any]:
    return {
        "id": row.run.id,
        "measured": row.measured_seconds,
        "predicted": row.predicted_seconds,
        "low": row.interval.low_seconds,
        "high": row.interval.high_seconds,
        "plan": str(row.setting.plan),
        "stack": row.setting.stack.name,
        "breakdown_seconds": row.estimate.breakdown.parts(),
    }


def source_of(run: Run) -> str:
    """The source of a run: its id without the number."""
    return re.sub(r"-\d+$", "", run.id)


def _source(row: Scored) -> str:
    return source_of(row.run)


def _accelerator(row: Scored) -> str:
    return row.setting.cluster.accelerator.name


def _grouped(rows: Iterable[Scored], key: Callable[[Scored], Any]) -> dict[Any, list[Scored]]:
    groups: defaultdict[Any, list[Scored]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _as_dicts(groups: dict[str, Errors]) -> dict[str, Any]:
    return {name: errors.as_dict() for name, errors in groups.items()}


def constant_utilisation(rows: Sequence[Scored]) -> tuple[float | None, Errors]:
    """One constant hardware utilisation, the median of `rows`, as a predictor of them."""
    ideal = [_ideal_seconds(row) for row in rows]
    measured = [row.measured_seconds or 0.0 for row in rows]
    if not rows:
        return None, Errors.of([], [])
    ratios = sorted(best / seconds for best, seconds in zip(ideal, measured, strict=True))
    constant = 0.5 * (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2])
    return constant, Errors.of([seconds / constant for seconds in ideal], measured)


def _ideal_seconds(row: Scored) -> float:
    """Seconds at the datasheet peak of every device, recomputation included."""
    setting = row.setting
    factor = FULL_RECOMPUTE_FACTOR if setting.plan.recompute == Recompute.FULL else 1.0
    peak = setting.cluster.accelerator.flops_per_second(setting.job.compute_dtype) * setting.cluster.num_devices
    return factor * model_flops(setting.job) / peak


def families(rows: Iterable[Scored]) -> list[list[Scored]]:
    """Groups of runs that differ only in their plan, with at least two plans each."""
    groups = _grouped(rows, _work)
    return [group for group in groups.values() if len({row.setting.plan for row in group}) > 1]


def _work(row: Scored) -> tuple[Any, ...]:
    run = row.run
    return (
        _source(row), run.model, run.layers, run.hidden, run.heads, run.seq_len, run.accelerator,
        run.num_accelerators, run.global_batch_seqs, run.precision, run.framework,
    )  # fmt: skip


def _memory(rows: Iterable[Scored]) -> dict[str, Errors]:
    told = [row for row in rows if row.run.peak_memory_gb and not row.run.oom]
    groups = _grouped(told, lambda row: reading_of(row.run))
    errors = {kind: _memory_errors(group) for kind, group in sorted(groups.items())}
    return {"overall": _memory_errors(told)} | errors


def _memory_errors(rows: Sequence[Scored]) -> Errors:
    predicted = [predicted_bytes(row.estimate.memory, row.run) for row in rows]
    return Errors.of(predicted, [measured_bytes(row.run) for row in rows])


def _out_of_memory(rows: Sequence[Scored]) -> dict[str, int]:
    """Whether the runs that failed for memory, and only they, are predicted not to fit.

    Where that turns on a setting the source does not state, the row is undecided.
    """
    verdicts = [(is_too_big(row.setting, row.estimate.memory), bool(row.run.oom)) for row in rows]
    decided = [(predicted, happened) for predicted, happened in verdicts if predicted is not None]
    counts = confusion([predicted for predicted, _ in decided], [happened for _, happened in decided])
    return counts | {"undecided": len(verdicts) - len(decided)}
