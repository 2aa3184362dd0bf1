"""Fits the constants of an engine record, and the time factors of its kernels on one machine, to logs of its requests.

Each constant is believed to be near the catalog's, as wide as its spread, and each request's times to be met up to a
noise (a robust, regularised least squares): what the requests do not tell stays as it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from profiles.engine import EngineRecord, KernelKind
from simulator.serving.requests import Floats
from validate.score.serving.fit_engine import SMALLEST_SECONDS, with_constants
from validate.score.serving.log import ServedLog

_PRODUCTS: Mapping[str, tuple[KernelKind, ...]] = {
    "dense": ("gemm", "elementwise"), "sparse": ("gemm", "elementwise", "experts")
}  # fmt: skip
"""Kinds whose time one load cannot tell apart."""
_ATTENTION: tuple[KernelKind, ...] = ("prefill", "decode")
_NOISE: Mapping[str, float] = {"ttft": 0.10, "tpot": 0.03, "e2e": 0.03}
"""Logarithmic error that a request's figure may have; first tokens come by luck of the batch they meet."""
_NUM_INDEPENDENT = 20.0
"""Requests that share a queue are late together: a log counts as so many at most."""
_STEP, _NUM_TRIES = 0.1, 6
"""Of a constant's spread for a slope, well above the steps that play makes; and tries."""
_TOLERANCE = 1e-3
_FURTHEST = 4.0
"""Spreads that a constant may be from the catalog's."""


@dataclass(frozen=True, slots=True)
class _Constant:
    """What is fitted together: time factors of some kinds of kernels, or one field of the record."""

    log_spread: float
    kinds: tuple[KernelKind, ...] = ()
    field: str = ""


@dataclass(frozen=True, slots=True)
class LogFit:
    """A record fitted to logs, and mean errors of their requests' figures: "ttft", "tpot", "e2e" -> fraction."""

    engine: EngineRecord
    before: Mapping[str, float]
    after: Mapping[str, float]
    held_out: Mapping[str, float]
    """Of each log by the constants of the others; of the later half of a single one by those of its first half."""

    def as_dict(self) -> dict[str, Any]:
        """The document of `calibrate --json`."""
        engine = self.engine.model_dump(mode="json", exclude_defaults=True)
        return {"engine": engine, "before": self.before, "after": self.after, "held_out": self.held_out}


def fit_logs(engine: EngineRecord, logs: Sequence[ServedLog]) -> LogFit:
    """`engine` with the constants that the requests of `logs`, served on one kind of machine, make most probable."""
    whole = [(log, np.ones(len(log.asked), dtype=bool)) for log in logs]
    found = _fitted(engine, whole)
    if len(logs) > 1:
        splits = [([pair for pair in whole if pair is not out], [out]) for out in whole]
    else:
        early = np.arange(len(logs[0].asked)) < len(logs[0].asked) / 2
        splits = [([(logs[0], early)], [(logs[0], ~early)])]
    held_out = [_mean_errors(_fitted(engine, train), test) for train, test in splits]
    return LogFit(
        found, _mean_errors(engine, whole), _mean_errors(found, whole),
        {name: float(np.mean([one[name] for one in held_out])) for name in _NOISE},
    )  # fmt: skip


_Part = tuple[ServedLog, np.ndarray]
"""A log, and which of its requests count."""


def _fitted(engine: EngineRecord, parts: Sequence[_Part]) -> EngineRecord:
    constants = list(_constants([log for log, _ in parts]))
    spreads = np.array([one.log_spread for one in constants])

    def residuals(units: Floats) -> Floats:
        tried = _engine_at(engine, constants, units * spreads)
        return np.concatenate([*(one for part in parts for one in _residuals(tried, *part)), units])

    def slopes(units: Floats) -> Floats:
        here = residuals(units)
        return np.stack([residuals(units + step) - here for step in _STEP * np.eye(len(units))], axis=1) / _STEP

    found = least_squares(
        residuals, np.zeros(len(constants)), slopes, loss="soft_l1", bounds=(-_FURTHEST, _FURTHEST),
        max_nfev=_NUM_TRIES, ftol=_TOLERANCE, xtol=_TOLERANCE,
    )  # fmt: skip
    return _engine_at(engine, constants, found.x * spreads)


def _constants(logs: Sequence[ServedLog]) -> Iterator[_Constant]:
    """What these logs can tell of."""
    kinds = sorted({log.kind for log in logs})
    yield _Constant(0.25, kinds=_PRODUCTS[kinds[-1]])
    yield _Constant(0.25, kinds=_ATTENTION)
    if any(log.plan.decode.tp * log.plan.decode.attention_dp > 1 for log in logs):
        yield _Constant(0.5, kinds=("message",))
    prompts = {"dense": "prompt_time_factor", "sparse": "sparse_prompt_time_factor"}
    yield from (_Constant(0.25, field=prompts[kind]) for kind in kinds)
    yield _Constant(1.0, field="host_seconds_per_sequence")
    if any(log.asked.at_client for log in logs):
        yield _Constant(1.0, field="front_end_seconds")
        yield _Constant(1.0, field="front_end_seconds_per_request")


def _engine_at(engine: EngineRecord, constants: Sequence[_Constant], logarithms: Floats) -> EngineRecord:
    factors: dict[KernelKind, float] = dict(engine.time_factors)
    fields: dict[str, float] = {}
    for one, factor in zip(constants, np.exp(logarithms).tolist(), strict=True):
        factors |= {kind: float(f"{factors.get(kind, 1.0) * factor:.4g}") for kind in one.kinds}
        if one.field:
            fields[one.field] = max(getattr(engine, one.field), SMALLEST_SECONDS) * factor
    return with_constants(engine, fields).model_copy(update={"time_factors": factors})


def _residuals(engine: EngineRecord, log: ServedLog, counted: np.ndarray) -> Iterator[Floats]:
    """ln(predicted / measured) of every figure of the requests that count, over its noise."""
    measured, (predicted, _) = log.asked.times(), log.predicted(engine)
    for name, noise in _NOISE.items():
        errors = np.log(np.maximum(predicted[name], SMALLEST_SECONDS) / measured[name])[counted]
        errors = np.where(np.isfinite(errors), errors, 0.0)
        yield errors / noise * np.sqrt(min(_NUM_INDEPENDENT / len(errors), 1.0))


def _mean_errors(engine: EngineRecord, parts: Sequence[_Part]) -> dict[str, float]:
    """Mean over logs of the absolute error of the mean figure of the requests that count."""
    errors = []
    for log, counted in parts:
        measured, (predicted, _) = log.asked.times(), log.predicted(engine)
        errors.append([abs(np.nanmean(predicted[n][counted]) / np.nanmean(measured[n][counted]) - 1.0) for n in _NOISE])
    return dict(zip(_NOISE, np.mean(errors, axis=0).tolist(), strict=True))
