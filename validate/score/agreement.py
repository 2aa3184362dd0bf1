"""How well predictions agree with measurements: errors of a group, ranks of a family, confusion counts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of n predictions as fractions of the measured figure; None where there is nothing to take it of."""

    n: int
    mape: float | None
    """Mean absolute error."""
    median: float | None
    """Median absolute error."""
    p90: float | None
    max: float | None
    bias: float | None
    """Median signed error; above 0 the prediction is too large."""
    coverage: float | None = None
    """Share of measured figures inside the predicted interval."""

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float], inside: Sequence[bool] = ()) -> "Errors":
        """The errors of `predicted` against `measured` (same length, measured > 0)."""
        assert len(predicted) == len(measured)
        if not len(measured):
            return cls(0, None, None, None, None, None)
        signed = np.asarray(predicted, dtype=float) / np.asarray(measured, dtype=float) - 1.0
        size = np.abs(signed)
        return cls(
            n=len(size), mape=float(size.mean()), median=float(np.median(size)),
            p90=float(np.quantile(size, 0.9)), max=float(size.max()), bias=float(np.median(signed)),
            coverage=float(np.mean(inside)) if len(inside) else None,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Field name -> figure."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well the predictions order the plans of families that differ in nothing else.

    Regret is the measured time of the plan predicted best over the time of the plan measured best, minus 1.
    """

    families: int
    regret_mean: float | None
    regret_max: float | None
    regret_top3_mean: float | None
    """Regret if the three plans predicted best are all run and the best of them kept."""
    kendall_tau: float | None
    """Mean over families of Kendall's tau-b; families that are tied throughout have none."""

    @classmethod
    def of(cls, families: Sequence[tuple[Sequence[float], Sequence[float]]]) -> "Ranking":
        """The ranking of (predicted, measured) seconds of each family."""
        if not families:
            return cls(0, None, None, None, None)
        first = [regret(predicted, measured) for predicted, measured in families]
        third = [regret(predicted, measured, tries=3) for predicted, measured in families]
        taus = [tau for predicted, measured in families if (tau := rank_correlation(predicted, measured)) is not None]
        return cls(
            families=len(families), regret_mean=float(np.mean(first)), regret_max=float(np.max(first)),
            regret_top3_mean=float(np.mean(third)), kendall_tau=float(np.mean(taus)) if taus else None,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Field name -> figure."""
        return asdict(self)


def regret(predicted: Sequence[float], measured: Sequence[float], tries: int = 1) -> float:
    """Measured time of the best of the `tries` plans predicted fastest, over the best of all, minus 1."""
    times = np.asarray(measured, dtype=float)
    chosen = np.argsort(np.asarray(predicted, dtype=float), kind="stable")[:tries]
    return float(times[chosen].min() / times.min() - 1.0)


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Kendall's tau-b, or None when one side is tied throughout."""
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    return float(kendalltau(predicted, measured).statistic)


def confusion(predicted: Sequence[bool], happened: Sequence[bool]) -> dict[str, int]:
    """Counts of true and false positives and negatives."""
    pairs = list(zip(predicted, happened, strict=True))
    return {
        "true_positive": pairs.count((True, True)),
        "false_positive": pairs.count((True, False)),
        "true_negative": pairs.count((False, False)),
        "false_negative": pairs.count((False, True)),
    }
