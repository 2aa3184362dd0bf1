"""The busiest hour of a load, played: whether its requests are within their targets with the replicas of that hour."""

from dataclasses import dataclass, replace

import numpy as np

from meshwise.serving.deployed import with_deployment
from meshwise.serving.jobfile import LoadTable, ServingFile
from meshwise.serving.stage import figures_of
from meshwise.serving.traffic import traffic
from planner.choose.serving_capacity.demand import ServedDay
from planner.choose.serving_capacity.deployment import Deployment
from planner.cost.serving import PriceBook
from profiles.units import HOUR
from simulator.serving.requests import Requests, part
from simulator.serving.statistics import Summary

MOST_REQUESTS = 20_000
"""Of the hour, from its beginning."""
_MORE = (1.0, 1.08, 1.17, 1.27, 1.4, 1.6, 1.9, 2.4, 3.0)
"""Factors on the replicas that are tried until the targets are met."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A deployment with the replicas that the simulated busiest hour needs, and what its users saw."""

    deployment: Deployment
    figures: Summary
    is_met: bool


def settle(file: ServingFile, deployment: Deployment, day: ServedDay, headroom: float) -> Settled:
    """Play the busiest hour, with more replicas until its targets are met."""
    requests, book = busiest_hour(file, day), PriceBook()
    tried: set[tuple[int, ...]] = set()
    settled = None
    for more in _MORE:
        slower = replace(deployment, slowdown_factor=more)
        numbers = tuple(int(each.max()) for each in slower.counts(day, headroom))
        if numbers in tried:
            continue
        tried.add(numbers)
        figures = figures_of(with_deployment(file, slower.plan(numbers)), requests, book)
        settled = Settled(slower, figures, figures.attained_fraction.value >= file.targets.attained_fraction)
        if settled.is_met:
            break
    assert settled is not None
    return settled


def busiest_hour(file: ServingFile, day: ServedDay) -> Requests:
    """Its requests: those of the trace, or as many as its rate makes by the law of arrivals, and no more than
    `MOST_REQUESTS`."""
    hour = int(np.argmax(day.requests_per_second))
    load = file.load
    if load.requests_per_second is None:
        return _hour_of(traffic(load, load.seed), hour)
    rate = day.peak_requests_per_second
    count = max(min(round(rate * HOUR), MOST_REQUESTS), 1)
    steady: dict[str, object] = {"requests_per_second": rate, "requests": count}
    if load.arrivals == "diurnal":
        steady |= {"arrivals": "poisson", "peak_ratio": None, "period_seconds": None}
    return traffic(LoadTable.model_validate(load.model_dump() | steady), load.seed)


def _hour_of(requests: Requests, hour: int) -> Requests:
    begin = float(requests.arrival_seconds[0]) + hour * HOUR
    within = np.flatnonzero((requests.arrival_seconds >= begin) & (requests.arrival_seconds < begin + HOUR))
    return part(requests, within[:MOST_REQUESTS])
