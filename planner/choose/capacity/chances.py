"""Which option would have been the right one, over all the speeds that the error bars allow."""

from collections.abc import Mapping, Sequence

import numpy as np

from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option

NUM_DRAWS = 2_000
"""The share of an option is then known to about one in a hundred."""


def choice_fractions(
    options: Sequence[Option], demand: Demand, draws: np.random.Generator
) -> Mapping[tuple[str, int], float]:
    """Key -> share of the draws in which the option is the cheapest of those that end in time and within the budget.

    A draw is one deviation for each accelerator, in standard deviations of its log-normal run: what is wrong about the
    price of a step is common to all sizes and offers of one accelerator, and taken as independent between two. Options
    that are never the cheapest are left out; the shares sum to less than 1 where sometimes nothing will do.
    """
    ends = [one for one in options if one.can_begin(demand)]
    if not ends:
        return {}
    names = sorted({one.offer.accelerator for one in ends})
    deviations = draws.standard_normal((len(names), NUM_DRAWS))
    of = np.array([names.index(one.offer.accelerator) for one in ends])
    columns = [(one.run.median_seconds, one.run.spread_fraction, *_line(one)) for one in ends]
    median, spread, start, slope = (column[:, None] for column in np.array(columns).T)
    seconds = median * np.exp(spread * deviations[of])
    dollars = start + slope * seconds
    will_do = (seconds <= demand.deadline_seconds) & (dollars <= demand.budget_dollars)
    cheapest = np.argmin(np.where(will_do, dollars, np.inf), axis=0)
    wins = np.bincount(cheapest[will_do.any(axis=0)], minlength=len(ends))
    return {one.key: float(number) / NUM_DRAWS for one, number in zip(ends, wins, strict=True) if number}


def _line(one: Option) -> tuple[float, float]:
    """(dollars, dollars a second) of the line that a bill follows over the length of the run."""
    slope = (one.high_dollars - one.low_dollars) / (one.high_seconds - one.low_seconds)
    return one.low_dollars - slope * one.low_seconds, slope
