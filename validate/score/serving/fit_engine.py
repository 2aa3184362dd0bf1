"""Fits the constants of an engine record to measured serving runs: to a table of them, or to one run of one's own."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.serving import PriceBook
from profiles.engine import EngineRecord
from validate.score.serving.consistency import check_slots
from validate.score.serving.constants import constants_of, most_probable
from validate.score.serving.play import predict
from validate.score.serving.resolve import ServedSetting, resolve_serving
from validate.score.serving.table import ServedRow

CONSTANTS = (
    "all_reduce_excess_seconds", "host_seconds_per_sequence", "front_end_seconds", "front_end_seconds_per_request",
)  # fmt: skip
MOST_FRACTION = 0.95
CAP = 0.7
"""Logarithmic error of a run that the model says cannot be; in fits to tables the most that any counts."""


def timed_settings(rows: Sequence[ServedRow], engine: str | None = None) -> list[ServedSetting]:
    """Closed-loop settings with both times, each once with the median of what was measured; under one record."""
    same: defaultdict[tuple[object, ...], list[ServedSetting]] = defaultdict(list)
    for row in rows:
        try:
            setting = resolve_serving(row)
            check_slots(setting)
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


_UNKNOWN_ERRORS = (0.3, 0.1)
"""Of TTFT and TPOT, of a record that no error is known of."""


def fit_engine(engine: EngineRecord, settings: Sequence[ServedSetting]) -> EngineRecord:
    """`engine` with the constants, and the times of kernels on one machine, that `settings` make most probable.

    A run is believed to be off by as much as the record is on runs it has not seen: one run, which has two figures for
    many constants, moves them as far as it is unlikely, and many as far as they say.
    """
    fit = engine.fit
    noise = np.array((fit.held_out_ttft_error_fraction, fit.held_out_tpot_error_fraction) if fit else _UNKNOWN_ERRORS)
    constants = constants_of(
        ["sparse" if one.model.moe else "dense" for one in settings],
        has_messages=any(one.plan.decode.tp * one.plan.decode.attention_dp > 1 for one in settings),
        at_client=True,
        known_machine=fit is not None,
    )

    def errors(tried: EngineRecord) -> NDArray[np.float64]:
        book = PriceBook()
        return np.ravel([log_errors(one, tried, book) for one in settings] / noise)

    return most_probable(engine, list(constants), errors)


def constant_of(engine: EngineRecord, name: str) -> float:
    """A field of a record, or, as "prompt_time_factors.fp8_block blackwell", one entry of it (1 if it has none)."""
    field, _, form = name.partition(".")
    return float(getattr(engine, field).get(form, 1.0) if form else getattr(engine, field))


def with_constants(engine: EngineRecord, constants: Mapping[str, float]) -> EngineRecord:
    """`engine` with some fields changed, as `constant_of` names them, to three digits; shares stay below 1."""
    for name, value in constants.items():
        field, _, form = name.partition(".")
        most = MOST_FRACTION if name.endswith("_fraction") else np.inf
        rounded = float(f"{min(value, most):.3g}")
        changed = getattr(engine, field) | {form: rounded} if form else rounded
        engine = engine.model_copy(update={field: changed})
    return engine


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
