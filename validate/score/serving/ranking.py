"""How well predictions order the choices that somebody who serves a model has."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

if TYPE_CHECKING:
    from validate.score.serving.score import ScoredServing

LEAST_CHOICES = 3
"""Groups of fewer have nothing to order."""
MANY_CHOICES = 5
"""Groups of so many or more are reported by themselves: where three differ by little, one swap takes half of a rank
correlation. Others report these alone."""
WELL_RANKED = 0.95
"""Groups of a lower rank correlation are named."""


@dataclass(frozen=True, slots=True)
class RankedGroup:
    """Choices of one group whose order is not well predicted."""

    group: str
    choices: int
    spearman: float
    regret: float
    measured_spread_fraction: float
    """Best measured over worst, less one: choices that differ little are hard to order, and it matters little."""


@dataclass(frozen=True, slots=True)
class GroupRanking:
    """Over groups of runs that differ only in what may be chosen."""

    groups: int
    spearman_mean: float | None
    """Of output tokens/s a device."""
    spearman_median: float | None
    spearman_ceiling: float | None
    """What the mean would be of predictions that are exact, since measurements repeat only so well; None: no run was
    measured twice."""
    regret_mean: float | None
    """What the best predicted choice lacks of the best measured one, as a share of the latter."""
    regret_max: float | None
    poorly_ranked: tuple[RankedGroup, ...] = ()
    """Groups below `WELL_RANKED`, the worst first."""


@dataclass(frozen=True, slots=True)
class ServingRanking:
    """Ranks within groups of one model, device, engine and lengths."""

    over_all: GroupRanking
    """Splits, precisions and concurrencies together."""
    over_splits: GroupRanking
    """Splits and precisions at one concurrency."""
    over_many: GroupRanking
    """As `over_all`, of groups with `MANY_CHOICES` or more."""
    repeat_fraction: float | None
    """Standard deviation of measurements of one run, as a share of it: from the median difference of those that were
    measured twice."""

    def as_dict(self) -> dict[str, Any]:
        """Group name -> figures."""
        return asdict(self)


Label = Callable[["ScoredServing"], tuple[object, ...]]
Groups = dict[tuple[object, ...], dict[object, tuple[float, float]]]
"""Group -> choice -> (predicted, measured) tokens/s a device."""


def rank_choices(scored: "Sequence[ScoredServing]") -> ServingRanking:
    """The ranking of all rows with a throughput."""
    usable = [one for one in scored if one.has("throughput")]
    repeats = _repeat_fraction(usable)
    by_setting = _choices(usable, _setting)
    many = {label: choices for label, choices in by_setting.items() if len(choices) >= MANY_CHOICES}
    at_one_load = _choices(usable, lambda one: (*_setting(one), one.setting.row.concurrency))
    return ServingRanking(
        _ranked(by_setting, repeats), _ranked(at_one_load, repeats), _ranked(many, repeats), repeats
    )  # fmt: skip


def _setting(one: "ScoredServing") -> tuple[object, ...]:
    row = one.setting.row
    return (
        one.setting.model.name, one.setting.cluster.accelerator.name, one.setting.engine.name, row.engine_version,
        row.mode, row.input_tokens, row.output_tokens,
    )  # fmt: skip


def _choices(scored: "Sequence[ScoredServing]", label: Label) -> Groups:
    """By group and choice; of a choice that was measured several times the median."""
    found: defaultdict[tuple[object, ...], defaultdict[object, list[tuple[float, float]]]]
    found = defaultdict(lambda: defaultdict(list))
    for one in scored:
        found[label(one)][one.setting.key].append(_rates(one))
    return {
        group: {key: (pairs[0][0], float(np.median([pair[1] for pair in pairs]))) for key, pairs in choices.items()}
        for group, choices in found.items()
    }


def _rates(one: "ScoredServing") -> tuple[float, float]:
    """Predicted and measured output tokens/s a device."""
    devices = one.setting.plan.num_devices
    return float(one.predicted["throughput"] or 0.0) / devices, float(one.measured["throughput"] or 0.0) / devices


_SAME = 1e-3
"""Figures that differ by less are one measurement, rounded differently."""
_MEDIAN_DIFFERENCE = 0.954
"""Median absolute difference of two draws of a normal distribution over its deviation: 0.6745 sqrt(2)."""


def _repeat_fraction(scored: "Sequence[ScoredServing]") -> float | None:
    measured: defaultdict[object, list[float]] = defaultdict(list)
    for one in scored:
        if not one.setting.row.drafts_open:  # else two runs may look like one
            measured[(*_setting(one), one.setting.key)].append(np.log(_rates(one)[1]))
    spreads = [max(logarithms) - min(logarithms) for logarithms in measured.values()]
    repeated = [spread for spread in spreads if spread > _SAME]
    return float(np.median(repeated)) / _MEDIAN_DIFFERENCE if repeated else None


_NUM_DRAWS = 400


def _ceiling(measured: NDArray[np.float64], repeats: float, generator: np.random.Generator) -> float:
    """Mean rank correlation of what was measured with the same measured again."""
    again = np.log(measured) + repeats * generator.standard_normal((_NUM_DRAWS, len(measured)))
    first, ranks = rankdata(measured), rankdata(again, axis=1)
    first, ranks = first - first.mean(), ranks - ranks.mean(axis=1, keepdims=True)
    return float(np.mean(ranks @ first / np.sqrt((first @ first) * (ranks**2).sum(axis=1))))


def _ranked(groups: Groups, repeats: float | None) -> GroupRanking:
    generator = np.random.default_rng(0)
    found, ceilings = [], []
    for label_of, choices in groups.items():
        predicted, measured = np.array(list(choices.values())).T
        if len(predicted) < LEAST_CHOICES or np.ptp(predicted) == 0.0 or np.ptp(measured) == 0.0:
            continue
        rank = float(spearmanr(predicted, measured).statistic)
        regret = float(1.0 - measured[np.argmax(predicted)] / measured.max())
        words = " ".join(str(part) for part in label_of if part not in (None, ""))
        found.append(RankedGroup(words, len(predicted), rank, regret, float(measured.max() / measured.min() - 1.0)))
        if repeats is not None:
            ceilings.append(_ceiling(measured, repeats, generator))
    if not found:
        return GroupRanking(0, None, None, None, None, None)
    ranks, regrets = (np.array([getattr(one, name) for one in found]) for name in ("spearman", "regret"))
    poor = sorted((one for one in found if one.spearman < WELL_RANKED), key=lambda one: one.spearman)
    return GroupRanking(
        len(found), float(ranks.mean()), float(np.median(ranks)), float(np.mean(ceilings)) if ceilings else None,
        float(regrets.mean()), float(regrets.max()), tuple(poor),
    )  # fmt: skip
