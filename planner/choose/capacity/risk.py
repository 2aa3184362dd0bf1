"""How likely a run ends late or dear, from the error bar of its step and the chance of its interruptions."""

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from planner.cost.goodput import Checkpoints, Interruptions


def num_deviations(level_fraction: Any) -> Any:
    """Standard deviations on either side of the median between which a share `level_fraction` of a normal lies."""
    return ndtri((1.0 + np.asarray(level_fraction)) / 2.0)


def log_spread(low: Any, high: Any, level_fraction: Any) -> tuple[Any, Any]:
    """(median, standard deviation of the logarithm) of the log-normal distribution that an error bar stands for.

    A share `level_fraction` of it lies between `low` and `high`, and equal shares beyond either: measured over
    predicted step times are ratios, so their logarithms are taken as normal. The median is the middle of the bar, which
    is the prediction only where those were not biased.
    """
    return np.sqrt(low * high), np.log(high / low) / (2.0 * num_deviations(level_fraction))


def interruption_spread(run_seconds: Any, stops: Interruptions, saves: Checkpoints) -> Any:
    """Standard deviation over the mean of a run's length, for the chance of how many interruptions it meets and when.

    A compound Poisson sum of run_seconds / M losses: its variance is their number times the mean square of one
    [Ross 2014, Introduction to Probability Models, section 5.4.2]; a loss is the restart R and the work since the last
    checkpoint, uniform over a cycle C: R^2 + R C + C^2 / 3. Restarts that are interrupted themselves are left out.
    """
    cycle = saves.interval_seconds + saves.stall_seconds
    restarts = ((1.0 - stops.manual_fraction, stops.restart_seconds), (stops.manual_fraction, stops.manual_seconds))
    mean_square = sum(share * (one**2 + one * cycle) for share, one in restarts) + cycle**2 / 3.0
    return np.sqrt(run_seconds / stops.seconds_between * mean_square) / run_seconds


def chance_above(limit: Any, median: Any, spread: Any) -> Any:
    """Probability that a log-normal quantity of that median and standard deviation of the logarithm exceeds `limit`.

    Zero for a limit that is infinite, one for a quantity that is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isinf(median), 1.0, ndtr((np.log(median) - np.log(limit)) / spread))
