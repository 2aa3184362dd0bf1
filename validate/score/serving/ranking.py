"""How well predictions order the choices that somebody who serves a model has."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

if TYPE_CHECKING:
    from validate.score.serving.score import ScoredServing

LEAST_CHOICES = 3
"""Groups of fewer have nothing to order."""


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

    def as_dict(self) -> dict[str, Any]:
        """Group name -> figures."""
        return asdict(self)


def rank_choices(scored: "Sequence[ScoredServing]") -> ServingRanking:
    """The ranking of all rows with a throughput."""
    usable = [one for one in scored if one.has("throughput")]
    return ServingRanking(
        _ranked(usable, _setting), _ranked(usable, lambda one: (*_setting(one), one.setting.row.concurrency))
    )


def _setting(one: "ScoredServing") -> tuple[object, ...]:
    row = one.setting.row
    return (
        one.setting.model.name, one.setting.cluster.accelerator.name, one.setting.engine.name, row.engine_version,
        row.mode, row.input_tokens, row.output_tokens,
    )  # fmt: skip


def _ranked(scored: "Sequence[ScoredServing]", label: "Callable[[ScoredServing], tuple[object, ...]]") -> GroupRanking:
    groups: defaultdict[tuple[object, ...], dict[object, tuple[float, float]]] = defaultdict(dict)
    for one in scored:
        devices = one.setting.plan.num_devices
        pair = (float(one.predicted["throughput"] or 0.0) / devices, float(one.measured["throughput"] or 0.0) / devices)
        groups[label(one)].setdefault(one.setting.key, pair)
    found = []
    for label_of, choices in groups.items():
        predicted, measured = np.array(list(choices.values())).T
        if len(predicted) < LEAST_CHOICES or np.ptp(predicted) == 0.0 or np.ptp(measured) == 0.0:
            continue
        rank = float(spearmanr(predicted, measured).statistic)
        regret = float(1.0 - measured[np.argmax(predicted)] / measured.max())
        words = " ".join(str(part) for part in label_of if part not in (None, ""))
        found.append(RankedGroup(words, len(predicted), rank, regret, float(measured.max() / measured.min() - 1.0)))
    if not found:
        return GroupRanking(0, None, None, None, None)
    ranks, regrets = (np.array([getattr(one, name) for one in found]) for name in ("spearman", "regret"))
    poor = sorted((one for one in found if one.spearman < WELL_RANKED), key=lambda one: one.spearman)
    return GroupRanking(
        len(found),
        float(ranks.mean()),
        float(np.median(ranks)),
        float(regrets.mean()),
        float(regrets.max()),
        tuple(poor),
    )
