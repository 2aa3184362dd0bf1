"""Fits the constants of an engine record, and the time factors of its kernels on one machine, to logs of its requests.

Requests that share a queue are late together, so that a log counts as a few independent ones; odd ones weigh less.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles.engine import EngineRecord
from simulator.serving.requests import Floats
from validate.score.serving.constants import SMALLEST_SECONDS, constants_of, most_probable
from validate.score.serving.log import ServedLog

_NOISE: Mapping[str, float] = {"ttft": 0.10, "tpot": 0.03, "e2e": 0.03}
"""Logarithmic error that a request's figure may have; first tokens come by luck of the batch they meet."""
LEAST_REQUESTS = 20
_NUM_INDEPENDENT = 20.0
"""Requests that share a queue are late together: a log counts as so many at most."""


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
    """`engine` with the constants that the requests of `logs`, served on one kind of machine, make most probable.

    Raises ValueError for a log of too few requests.
    """
    for log in logs:
        count = int((log.asked.num_output_tokens > 1.0).sum())
        if count < LEAST_REQUESTS:
            raise ValueError(
                f"{log.name}: {count} requests have more than one token of output; {LEAST_REQUESTS} are needed"
            )
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
    logs = [log for log, _ in parts]
    constants = list(
        constants_of(
            [log.kind for log in logs],
            has_messages=any(log.plan.decode.tp * log.plan.decode.attention_dp > 1 for log in logs),
            at_client=any(log.asked.at_client for log in logs),
            known_machine=False,
        )
    )

    def errors(tried: EngineRecord) -> Floats:
        return np.concatenate([one for part in parts for one in _residuals(tried, *part)])

    return most_probable(engine, constants, errors)


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
