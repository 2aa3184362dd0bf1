"""Predicted against measured serving runs: every row's benchmark is played, and its published figures compared."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cost.serving import PriceBook
from profiles import catalog
from validate.runs.resolve import Unmodelled
from validate.score.agreement import Errors
from validate.score.serving.baseline import roofline_figures
from validate.score.serving.consistency import check_slots
from validate.score.serving.play import ServedFigures, predict
from validate.score.serving.ranking import ServingRanking, rank_choices
from validate.score.serving.resolve import ServedSetting, resolve_serving
from validate.score.serving.table import ServedRow, read_rows

SCHEMA_VERSION = 1
METRICS = ("ttft", "tpot", "e2e", "throughput")


@dataclass(frozen=True, slots=True)
class ScoredServing:
    """One row: what was measured, what is predicted, and what datasheet rates alone say."""

    setting: ServedSetting
    measured: Mapping[str, float | None]
    predicted: Mapping[str, float | None]
    baseline: Mapping[str, float | None]

    def has(self, metric: str) -> bool:
        """Whether the metric is measured and predicted."""
        return bool(self.measured[metric]) and self.predicted[metric] is not None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Where nine of ten measurements should lie, as far as the engine's fit says."""
        predicted, fit = self.predicted[metric], self.setting.engine.fit
        return None if predicted is None or fit is None else fit.interval(predicted, metric)

    def inside(self, metric: str) -> bool | None:
        """Whether what was measured lies in the interval."""
        interval, measured = self.interval(metric), self.measured[metric]
        return None if interval is None or measured is None else interval[0] <= measured <= interval[1]


Groups = dict[str, dict[str, Errors]]
"""Group -> metric -> errors."""


@dataclass(frozen=True, slots=True)
class ServingScore:
    """The score board of a table of serving runs."""

    overall: dict[str, Errors]
    by_kind: Groups
    """Dense or sparse models, aggregated or disaggregated."""
    by_source: Groups
    by_accelerator: Groups
    by_engine: Groups
    """By engine record: generations are not averaged with one another."""
    by_model: Groups
    baseline: dict[str, Errors]
    """Of datasheet rates and no queue."""
    ranking: ServingRanking
    answered_fraction: float
    skipped: dict[str, int]
    """Reason -> rows."""
    rows: tuple[dict[str, Any], ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The board as plain values, with the keys of `meshwise score --json`."""
        groups = ("by_kind", "by_source", "by_accelerator", "by_engine", "by_model")
        board = {
            "schema_version": SCHEMA_VERSION,
            "overall": _plain(self.overall),
            **{name: {key: _plain(value) for key, value in getattr(self, name).items()} for name in groups},
            "baseline": _plain(self.baseline),
            "ranking": self.ranking.as_dict(),
            "answered_fraction": self.answered_fraction,
            "skipped": self.skipped,
        }
        return board if self.rows is None else board | {"rows": list(self.rows)}


def score_serving(
    table_path: str | Path, *, engine: str | None = None, rows: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ServingScore:  # fmt: skip
    """Predict every row of a table of serving runs and compare; see docs/serving.md.

    Rows that describe the same run are predicted once. `engine` is a record of the catalog, or a file, in place of
    those of the rows' releases. Raises BadTable when the file is no such table.
    """
    table = read_rows(table_path)
    own = catalog.engine(engine) if engine else None
    skipped: Counter[str] = Counter()
    book, known, scored = PriceBook(), {}, []
    for done, row in enumerate(table, start=1):
        try:
            setting = resolve_serving(row, own)
            check_slots(setting)
            if setting.key not in known:
                known[setting.key] = predict(setting, book)
            scored.append(_scored(setting, known[setting.key]))
        except ValueError as error:
            skipped[str(error)] += 1
        if on_progress is not None:
            on_progress(done, len(table))
    return serving_board(scored, dict(skipped.most_common()), rows=rows)


def _scored(setting: ServedSetting, predicted: ServedFigures) -> ScoredServing:
    measured = measured_figures(setting)
    if not any(measured.values()):
        raise Unmodelled("no figure was measured")
    return ScoredServing(setting, measured, predicted.by_name(), roofline_figures(setting).by_name())


def measured_figures(setting: ServedSetting) -> dict[str, float | None]:
    """What a row says; of a closed loop also what its two times make of it: e2e = TTFT + TPOT (tokens - 1), and
    concurrency x tokens a request in that time."""
    row = setting.row
    ttft, tpot, e2e, rate = row.ttft_seconds, row.tpot_seconds, row.e2e_seconds, row.output_tokens_per_second
    if ttft and tpot and setting.protocol.kind == "closed loop":
        tokens = row.output_tokens * 0.5 * (1.0 + setting.protocol.shortest_fraction)
        e2e = e2e or ttft + tpot * (tokens - 1.0)
        rate = rate or (row.concurrency or 1) * tokens / e2e
    return {"ttft": ttft, "tpot": tpot, "e2e": e2e, "throughput": rate}


def serving_board(scored: Sequence[ScoredServing], skipped: dict[str, int], *, rows: bool) -> ServingScore:
    """The score board of predicted rows."""
    total = len(scored) + sum(skipped.values())
    return ServingScore(
        overall=_errors(scored),
        by_kind=_grouped(scored, lambda one: one.setting.kind),
        by_source=_grouped(scored, lambda one: one.setting.row.origin or one.setting.row.source.partition(":")[0]),
        by_accelerator=_grouped(scored, lambda one: one.setting.cluster.accelerator.name),
        by_engine=_grouped(scored, lambda one: one.setting.engine.name),
        by_model=_grouped(scored, lambda one: one.setting.model.name),
        baseline=_errors(scored, of_baseline=True),
        ranking=rank_choices(scored),
        answered_fraction=len(scored) / total if total else 0.0,
        skipped=skipped,
        rows=tuple(_row(one) for one in scored) if rows else None,
    )  # fmt: skip


def _grouped(scored: Sequence[ScoredServing], label: Callable[[ScoredServing], str]) -> Groups:
    groups: defaultdict[str, list[ScoredServing]] = defaultdict(list)
    for one in scored:
        groups[label(one)].append(one)
    return {name: _errors(group) for name, group in sorted(groups.items())}


def _errors(scored: Sequence[ScoredServing], *, of_baseline: bool = False) -> dict[str, Errors]:
    errors = {}
    for metric in METRICS:
        chosen = [one for one in scored if one.has(metric)]
        if of_baseline:
            chosen = [one for one in chosen if one.baseline[metric] is not None]
        predicted = [float((one.baseline if of_baseline else one.predicted)[metric] or 0.0) for one in chosen]
        inside = [one.inside(metric) for one in chosen]
        known = [] if of_baseline or None in inside else [bool(one) for one in inside]
        errors[metric] = Errors.of(predicted, [float(one.measured[metric] or 0.0) for one in chosen], known)
    return errors


def _plain(errors: Mapping[str, Errors]) -> dict[str, Any]:
    return {metric: one.as_dict() for metric, one in errors.items()}


def _row(one: ScoredServing) -> dict[str, Any]:
    row: ServedRow = one.setting.row
    figures = {}
    for metric in METRICS:
        if one.has(metric):
            low, high = one.interval(metric) or (None, None)
            figures[metric] = {
                "measured": one.measured[metric], "predicted": one.predicted[metric], "low": low, "high": high
            }  # fmt: skip
    return {"id": row.id, "engine": one.setting.engine.name, "plan": one.setting.plan_text, **figures}
