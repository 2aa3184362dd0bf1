"""Figures of a simulation with how sure they are: means and percentiles, targets met, goodput.

Requests that follow one another share a queue, so that they are not independent: intervals come from batches of
neighbours, whose means are nearly so [Law 2015, Simulation Modeling and Analysis, 5th ed., section 9.5.3].
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import t as student

from simulator.serving.requests import Floats
from simulator.serving.result import Played

LEVEL = 0.95
"""Of every interval."""
NUM_BATCHES = 20
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval at `LEVEL`; an infinite end says that there is too little to tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How a time is distributed over requests."""

    mean: Estimate
    percentiles: dict[int, Estimate]


@dataclass(frozen=True, slots=True)
class Targets:
    """What every request of a tenant is to stay within; None: no matter."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    e2e_seconds: float | None = None

    def met(self, played: Played) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Whether each request stays within all of them; a request of one token has no TPOT to miss."""
        met = np.isfinite(played.last_token_seconds)
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None:
                met &= ~(getattr(played, field.name) > limit)
        return met


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of some requests of a simulation."""

    num_requests: int
    """Asked, without those of a warm-up."""
    num_refused: int
    num_preemptions: int
    duration_seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    cached_fraction: float
    """Share of prompt tokens found in a cache."""
    ttft_seconds: Spread
    tpot_seconds: Spread
    e2e_seconds: Spread
    attained_fraction: Estimate
    """Requests within all targets over those asked."""
    goodput_requests_per_second: float
    """Of those within."""


def mean_estimate(values: Floats) -> Estimate:
    """The mean of `values`, in the order of their requests, with its interval."""
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    half = _half_width(values)
    mean = float(np.mean(values))
    return Estimate(mean, mean - half, mean + half)


def percentile_estimate(values: Floats, percent: float) -> Estimate:
    """A percentile with its interval.

    The share of values below it has a mean whose interval is that of any mean; the percentiles at its ends are the
    ends of this one [Law 2015, section 9.5.3; Heidelberger 1984, doi:10.1147/rd.282.0185].
    """
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    at = float(np.percentile(values, percent))
    half = 100.0 * _half_width((values <= at).astype(np.float64))
    low, high = percent - half, percent + half
    return Estimate(
        at,
        float(np.percentile(values, low)) if low > 0.0 else -np.inf,
        float(np.percentile(values, high)) if high < 100.0 else np.inf,
    )


def _half_width(values: Floats) -> float:
    """Of the interval of a mean, from the means of batches of neighbours; infinite for fewer values than batches."""
    if len(values) < NUM_BATCHES:
        return float("inf")
    whole = len(values) // NUM_BATCHES * NUM_BATCHES
    means = values[:whole].reshape(NUM_BATCHES, -1).mean(axis=1)
    quantile = float(student.ppf(0.5 + 0.5 * LEVEL, NUM_BATCHES - 1))
    return quantile * float(np.std(means, ddof=1)) / float(np.sqrt(NUM_BATCHES))


def spread(values: Floats) -> Spread:
    """Mean and percentiles of the finite `values`."""
    values = values[np.isfinite(values)]
    return Spread(mean_estimate(values), {percent: percentile_estimate(values, percent) for percent in PERCENTILES})


def summary(
    played: Played, targets: Sequence[Targets], *, tenant: int | None = None, deployment: int | None = None
) -> Summary:
    """The figures of all requests, or of one tenant's, or of those that one deployment answered.

    `targets` are those of each tenant.
    """
    requests = played.requests
    asked = np.arange(len(requests)) >= played.first_counted
    if tenant is not None and requests.tenant is not None:
        asked &= requests.tenant == tenant
    if deployment is not None and requests.deployment is not None:
        asked &= requests.deployment == deployment
    answered = asked & played.counted
    met = asked.copy()
    for number, each in enumerate(targets):
        met &= each.met(played) | (requests.tenant_index != number)
    seconds = played.duration_seconds
    per_second = 1.0 / seconds if seconds else 0.0
    inputs = float(requests.input_tokens[answered].sum())
    return Summary(
        num_requests=int(asked.sum()),
        num_refused=int(asked.sum() - answered.sum()),
        num_preemptions=int(played.num_preemptions[asked].sum()),
        duration_seconds=seconds,
        requests_per_second=float(answered.sum()) * per_second,
        output_tokens_per_second=float(requests.output_tokens[answered].sum()) * per_second,
        cached_fraction=float(played.cached_tokens[answered].sum()) / inputs if inputs else 0.0,
        ttft_seconds=spread(played.ttft_seconds[answered]),
        tpot_seconds=spread(played.tpot_seconds[answered]),
        e2e_seconds=spread(played.e2e_seconds[answered]),
        attained_fraction=mean_estimate(met[asked].astype(np.float64)),
        goodput_requests_per_second=float(met.sum()) * per_second,
    )
