"""Fits the constants of an engine record to measured serving runs: to a table of them, or to one run of one's own."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from planner.cost.serving import PriceBook
from profiles.engine import EngineRecord
from validate.score.serving.play import predict
from validate.score.serving.resolve import ServedSetting, resolve_serving
from validate.score.serving.table import ServedRow

CONSTANTS = (
    "all_reduce_excess_seconds", "host_seconds_per_sequence", "front_end_seconds", "front_end_seconds_per_request",
)  # fmt: skip
SMALLEST_SECONDS = 1e-7
"""What a constant of 0 starts from."""
MOST_FRACTION = 0.95
CAP = 0.7
"""Logarithmic error of a run that the model says cannot be; in fits to tables the most that any counts."""


def timed_settings(rows: Sequence[ServedRow], engine: str | None = None) -> list[ServedSetting]:
    """Closed-loop settings with both times, each once with the median of what was measured; under one record."""
    same: defaultdict[tuple[object, ...], list[ServedSetting]] = defaultdict(list)
    for row in rows:
        try:
            setting = resolve_serving(row)
        except ValueError:
            continue
        if engine in (None, setting.engine.name) and row.ttft_seconds and row.tpot_seconds and row.concurrency:
            same[(*setting.key, row.engine_version)].append(setting)
    return [_median(settings) for settings in same.values()]


def _median(settings: Sequence[ServedSetting]) -> ServedSetting:
    ttft, tpot = (
        float(np.median([getattr(one.row, name) for one in settings])) for name in ("ttft_seconds", "tpot_seconds")
    )
    return replace(settings[0], row=replace(settings[0].row, ttft_seconds=ttft, tpot_seconds=tpot))


def fit_engine(
    engine: EngineRecord, names: Sequence[str], settings: Sequence[ServedSetting], anchor: float
) -> EngineRecord:
    """`engine` with the named constants that minimise the squared logarithmic errors of TTFT and TPOT.

    `anchor` weighs the constants' own logarithmic changes against them: with few rows the nearest of many answers.
    """
    book = PriceBook()
    first = np.log([max(float(getattr(engine, name)), SMALLEST_SECONDS) for name in names])

    def residuals(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        tried = with_constants(engine, dict(zip(names, np.exp(logarithms), strict=True)))
        errors = np.array([log_errors(one, tried, book) for one in settings]).ravel() / np.sqrt(len(settings))
        return np.concatenate([errors, anchor * (logarithms - first)])

    found = least_squares(residuals, first, diff_step=np.full(len(first), _STEP), max_nfev=_NUM_TRIES)
    return with_constants(engine, dict(zip(names, np.exp(found.x), strict=True)))


_STEP, _NUM_TRIES = 0.02, 12
"""Relative step of a logarithm for a slope, well above the steps that a simulated loop makes; and tries."""


def with_constants(engine: EngineRecord, constants: Mapping[str, float]) -> EngineRecord:
    """`engine` with some fields changed, to three digits; shares stay below 1."""
    most = {name: MOST_FRACTION if name.endswith("_fraction") else np.inf for name in constants}
    return engine.model_copy(update={name: float(f"{min(value, most[name]):.3g}") for name, value in constants.items()})


def log_errors(setting: ServedSetting, engine: EngineRecord, book: PriceBook) -> tuple[float, float]:
    """ln(predicted / measured) of TTFT and TPOT under `engine`, started as the row's benchmark starts it.

    `CAP` for both where the model does not fit.
    """
    started = setting.started.of(engine)
    plan = setting.plan
    if plan.draft_tokens and started.acceptance_fraction:
        plan = replace(plan, acceptance_fraction=started.acceptance_fraction)
    try:
        figures = predict(replace(setting, engine=started, plan=plan), book)
    except ValueError:
        return CAP, CAP
    return (
        float(np.log((figures.ttft_seconds or 1.0) / (setting.row.ttft_seconds or 1.0))),
        float(np.log((figures.tpot_seconds or 1.0) / (setting.row.tpot_seconds or 1.0))),
    )
