"""Requests a second of each hour, from a trace, from factors of a mean rate, or from a law of arrivals."""

import numpy as np

from meshwise.serving.capacity.table import ServingCapacityTable
from meshwise.serving.estimating import load_figures
from meshwise.serving.jobfile import LoadTable, ServingFile
from meshwise.serving.traffic import traffic
from planner.choose.serving_capacity.demand import Floats, ServedDay
from profiles.units import DAY, HOUR


def served_day(file: ServingFile, asked: ServingCapacityTable) -> ServedDay:
    """The load by the hour. Raises ValueError for a closed loop, tasks, and hours that are stated twice or all idle."""
    load = file.load
    if load.concurrency is not None:
        raise ValueError("concurrency: capacity needs a rate (requests_per_second or a trace); a closed loop has none")
    lengths = load_figures(file).lengths
    return ServedDay(
        hourly_rates(load, asked.hourly), lengths.input_tokens, lengths.output_tokens, asked.startup_seconds,
        asked.headroom, asked.max_risk, asked.spot_fraction,
    )  # fmt: skip


def hourly_rates(load: LoadTable, factors: tuple[float, ...]) -> Floats:
    """Mean requests a second of each hour, shape (hours,)."""
    if load.requests_per_second is None:
        if factors:
            raise ValueError("hourly: a trace without requests_per_second says its own hours; leave one of them out")
        return _of_trace(load)
    if factors:
        if load.arrivals == "diurnal":
            raise ValueError("hourly: arrivals = 'diurnal' says the hours too; leave one of them out")
        if max(factors) <= 0.0:
            raise ValueError("hourly: all hours are 0; at least one must be above it")
        return load.requests_per_second * np.array(factors)
    if load.arrivals != "diurnal":
        return np.full(1, load.requests_per_second)
    swing, period = (load.peak_ratio or 2.0) - 1.0, load.period_seconds or DAY
    edges = np.linspace(0.0, 1.0, max(round(period / HOUR), 1) + 1)
    by_then = edges - swing * np.sin(2.0 * np.pi * edges) / (2.0 * np.pi)
    return np.asarray(load.requests_per_second * np.diff(by_then) / np.diff(edges))


def _of_trace(load: LoadTable) -> Floats:
    """Counts of each hour of the trace; what is left of the last one counts where it is half an hour or the first."""
    arrivals = traffic(load, load.seed).arrival_seconds
    begin, seconds = float(arrivals[0]), float(arrivals[-1] - arrivals[0])
    hours = max(round(seconds / HOUR), 1)
    ends = begin + np.append(np.arange(hours) * HOUR, seconds if hours == 1 else max(hours * HOUR, seconds))
    counted = np.histogram(arrivals, ends)[0]
    return np.asarray(counted / np.maximum(np.diff(ends), 1e-9))
