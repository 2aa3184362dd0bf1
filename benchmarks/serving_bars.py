"""How accurate predictions of published serving runs are, against the bars that would make them worth trusting.

Constants of an engine record are fitted on one half of its deployments (`benchmarks.fit_engines`); the figures here are
of the other half (`benchmarks.serving_groups` prints both, by model). Engine generations are not averaged with one
another.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.fit_engines import halves
from planner.cost.serving import PriceBook
from profiles import catalog
from profiles.engine import EngineRecord
from validate.score.serving.fit_engine import log_errors, timed_settings
from validate.score.serving.log import score_log
from validate.score.serving.resolve import ServedSetting
from validate.score.serving.score import ServingScore, score_serving
from validate.score.serving.table import read_rows

DENSE, SPARSE, DISAGGREGATED = (0.08, 0.04), (0.20, 0.12), (0.40, 0.20)
"""TTFT and TPOT, mean absolute errors held out."""
KERNELS_ALONE = (0.20, 0.14)
DENSE_E2E, LOG_E2E, LOG_TPOT = 0.08, 0.05, 0.04
ANSWERED, SPEARMAN, REGRET = 0.90, 0.98, 0.01
_FITTED = (
    "all_reduce_excess_seconds", "host_seconds_per_sequence", "front_end_seconds", "front_end_seconds_per_request",
    "host_seconds_per_prompt_launch", "output_seconds_per_token",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure beside the least or the most it should be."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        """One line."""
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        words = "at least" if self.at_least else "at most"
        return f"{self.name:80} {self.value:12,.4g}   {words} {self.limit:<8,g} {'met' if met else 'MISSED'}"


def published_bars(path: Path) -> Iterator[Bar]:
    """Of a table of aggregated runs: held-out errors by engine record and kind of model, answers, and ranking."""
    settings = timed_settings(read_rows(path))
    by_engine: defaultdict[str, list[ServedSetting]] = defaultdict(list)
    for one in settings:
        by_engine[one.engine.name].append(one)
    book = PriceBook()
    for name, ours in sorted(by_engine.items()):
        record = catalog.engine(name)
        held_out = halves(ours, 0)[1] if record.fit else ours
        for kind, limits in (("dense", DENSE), ("sparse", SPARSE)):
            part = [one for one in held_out if one.kind == kind]
            if part:
                yield from _errors(f"{name}, {kind}, {len(part)} runs held out", part, book, limits)
                known = [one for one in part if not one.row.drafts_open]
                if 0 < len(known) < len(part):
                    words = f"{name}, {kind}, the {len(known)} whose recipe says if tokens are guessed"
                    yield from _errors(words, known, book, limits)
                yield Bar(f"{name}, {kind}: end to end", _e2e(part, book), DENSE_E2E if kind == "dense" else SPARSE[1])
        if record.fit and (dense := [one for one in ours if one.kind == "dense"]):
            bare = record.model_copy(update=dict.fromkeys(_FITTED, 0.0))
            yield from _errors(f"{name}, dense, kernels alone", dense, book, KERNELS_ALONE, bare)
    yield from board_bars("published runs", score_serving(path))


def disaggregated_bars(path: Path) -> Iterator[Bar]:
    """Of a table of separate pools, by engine: nothing is fitted to it but the time of a handover."""
    board = score_serving(path)
    for name, errors in (("all", board.overall), *board.by_engine.items()):
        for metric, limit in zip(("ttft", "tpot"), DISAGGREGATED, strict=True):
            yield Bar(
                f"separate pools, {name}, {errors[metric].n} runs: {metric.upper()}", errors[metric].mape or 0.0, limit
            )
    yield from board_bars("separate pools", board)


def board_bars(name: str, board: ServingScore) -> Iterator[Bar]:
    """Rows answered, and how choices are ranked."""
    yield Bar(f"{name}: rows answered", board.answered_fraction, ANSWERED, at_least=True)
    found = board.ranking
    parts = {"": found.over_all, " at one load": found.over_splits, " of 5 or more": found.over_many}
    for words, ranking in parts.items():
        if ranking.spearman_mean is None or ranking.regret_mean is None:
            continue
        attainable = "" if ranking.spearman_ceiling is None else f" (attainable {ranking.spearman_ceiling:.3f})"
        words = f"{words}, {ranking.groups} groups"
        yield Bar(f"{name}: Spearman{words}{attainable}", ranking.spearman_mean, SPEARMAN, at_least=True)
        yield Bar(f"{name}: regret{words}", ranking.regret_mean, REGRET)


def log_bars(path: Path, cluster: str | None) -> Iterator[Bar]:
    """Of an engine's log of single requests."""
    score = score_log(path, cluster)
    for metric, limit in (("e2e", LOG_E2E), ("tpot", LOG_TPOT)):
        error = abs(score.times[metric]["mean"].error_fraction)
        yield Bar(f"log of {score.model} on {score.cluster}: mean {metric.upper()}", error, limit)


def _errors(
    name: str, settings: Sequence[ServedSetting], book: PriceBook, limits: tuple[float, float],
    engine: EngineRecord | None = None,
) -> Iterator[Bar]:  # fmt: skip
    errors = np.abs(np.exp([log_errors(one, engine or one.engine, book) for one in settings]) - 1.0)
    for metric, mean, limit in zip(("TTFT", "TPOT"), errors.mean(axis=0), limits, strict=True):
        yield Bar(f"{name}: {metric}", float(mean), limit)


def _e2e(settings: Sequence[ServedSetting], book: PriceBook) -> float:
    """Mean error of TTFT + TPOT (tokens - 1), of the two times together."""
    found = []
    for one in settings:
        steps = one.row.output_tokens * 0.5 * (1.0 + one.protocol.shortest_fraction) - 1.0
        ttft, tpot = np.exp(log_errors(one, one.engine, book))
        measured = (one.row.ttft_seconds or 0.0), steps * (one.row.tpot_seconds or 0.0)
        found.append(abs((ttft * measured[0] + tpot * measured[1]) / sum(measured) - 1.0))
    return float(np.mean(found))
