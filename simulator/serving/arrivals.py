"""Made-up traffic: when requests arrive, by a law that is found by its name, and how long they are."""

from collections.abc import Callable

import numpy as np

from profiles.units import DAY
from simulator.serving.requests import Floats, Ints

ArrivalLaw = Callable[..., Floats]
"""(mean rate in requests a second, how many, generator, options of its own) -> arrival seconds, in order."""

ARRIVAL_LAWS: dict[str, ArrivalLaw] = {}


def arrival_law(name: str) -> Callable[[ArrivalLaw], ArrivalLaw]:
    """Register a law of arrivals."""

    def register(function: ArrivalLaw) -> ArrivalLaw:
        ARRIVAL_LAWS[name] = function
        return function

    return register


@arrival_law("fixed")
def fixed(requests_per_second: float, count: int, generator: np.random.Generator) -> Floats:
    """One after another in equal distances."""
    return np.arange(1.0, count + 1.0) / requests_per_second


@arrival_law("poisson")
def poisson(requests_per_second: float, count: int, generator: np.random.Generator) -> Floats:
    """Independent of one another."""
    return np.cumsum(generator.exponential(1.0 / requests_per_second, count))


@arrival_law("bursty")
def bursty(
    requests_per_second: float, count: int, generator: np.random.Generator, variation_factor: float = 3.0
) -> Floats:
    """Gamma-distributed distances; `variation_factor` is their standard deviation over their mean, 1 as of Poisson.

    The law that AlpaServe and ServeGen use for bursts [Li 2023, arXiv:2302.11665, section 6.2].
    """
    shape = variation_factor**-2.0
    return np.cumsum(generator.gamma(shape, 1.0 / (shape * requests_per_second), count))


@arrival_law("diurnal")
def diurnal(
    requests_per_second: float,
    count: int,
    generator: np.random.Generator,
    peak_ratio: float = 2.0,
    period_seconds: float = DAY,
) -> Floats:
    """Poisson at a rate that follows a sine from its lowest, with the peak so many times the mean (at most twice).

    Times of a process of rate 1 are mapped through the inverse of the mean number of arrivals by a time
    [Cinlar 1975, Introduction to Stochastic Processes, section 4.7].
    """
    expected = np.cumsum(generator.exponential(1.0, count))
    swing = peak_ratio - 1.0
    end = 1.0 + expected[-1] / (requests_per_second * period_seconds) if count else 1.0
    grid = np.linspace(0.0, end, int(np.ceil(end * _POINTS_A_PERIOD)) + 1)
    phase = 2.0 * np.pi * grid
    by_then = requests_per_second * period_seconds * (grid - swing * np.sin(phase) / (2.0 * np.pi))
    return np.interp(expected, by_then, grid * period_seconds)


_POINTS_A_PERIOD = 1440


def lengths(mean_tokens: float, spread_fraction: float, count: int, generator: np.random.Generator) -> Ints:
    """Log-normal numbers of tokens; `spread_fraction` is their standard deviation over their mean, 0: all alike."""
    variance = np.log1p(spread_fraction**2.0)
    drawn = mean_tokens * np.exp(np.sqrt(variance) * generator.standard_normal(count) - 0.5 * variance)
    return np.maximum(np.rint(drawn), 1.0).astype(np.int64)


def uniform_lengths(shortest_fraction: float, tokens: int, count: int, generator: np.random.Generator) -> Ints:
    """Uniform between `shortest_fraction` of `tokens` and all of them, as benchmarks of engines draw them."""
    drawn = generator.uniform(shortest_fraction, 1.0, count) * tokens
    return np.maximum(np.rint(drawn), 1.0).astype(np.int64)
