"""The narrowing of a search: chunks of plans pass the rules, the memory of a device, a bound on time, the closed forms.

Nothing but the best so far is kept, so that memory does not grow with the space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.breakdown import Breakdown
from planner.choose.bounds import busy_bound_seconds
from planner.choose.legality import legal
from planner.choose.pareto import Front
from planner.choose.requirements import Objective, Requirement, Scenario, meeting
from planner.cost.estimate import step_breakdown
from planner.cost.grid import combinations
from planner.cost.memory import memory, usable_bytes
from planner.plan import Plan, PlanGrid

NUM_MISSES = 3
"""Plans shown when nothing fits."""
SPLIT_FIELDS = ("tp", "pp", "cp", "ep")
"""Of the plans that agree in these, only the best is ranked: a list of one split's variants helps nobody."""
TIE_DIGITS = 9
"""Steps that agree to this many digits (of their logarithm) are a tie; the simpler plan wins."""
TIES = 1.0 + 2.0 * 10.0**-TIE_DIGITS
"""What exceeds a score by less than this factor may be a tie with it."""
FIRST_OF_SPLIT, FIRST_SPLITS = 1, 2
"""Plans of one split that are priced before its others, those of the lowest bounds; and splits of which they are
priced before all others, as a multiple of those that are ranked."""

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Plans with what is known of them; the columns are equally long."""

    plans: PlanGrid
    places: Rows
    """Where each lies in the order of the space, the simpler plan first."""
    values: Floats
    """Bytes on the fullest rank, or the score that plans are ranked by."""

    def __len__(self) -> int:
        return len(self.plans)

    def take(self, rows: Rows) -> "_Batch":
        """The rows selected by an index."""
        return _Batch(self.plans.take(rows), self.places[rows], self.values[rows])


def _nothing() -> _Batch:
    return _Batch(PlanGrid.of([]), np.empty(0, dtype=np.intp), np.empty(0))


@dataclass(slots=True)
class Funnel:
    """Narrows chunks of plans to the best of each split, and counts what each step holds back."""

    on: Scenario
    top: int
    objective: Objective
    requirements: tuple[Requirement, ...]
    wants_front: bool
    known_limit: float = np.inf
    """A score that at least `top` splits are known to reach."""
    num_seen: int = 0
    num_legal: int = 0
    num_fitting: int = 0
    num_estimated: int = 0
    num_too_slow: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    unmet: dict[str, int] = field(default_factory=dict)
    front: Front = field(default_factory=Front)
    misses: list[tuple[float, Plan]] = field(default_factory=list)
    """(bytes on the fullest rank, plan) of the legal plans closest to fitting, while none fits."""
    _best: _Batch = field(default_factory=_nothing)

    @property
    def best(self) -> PlanGrid:
        """The best plan of the best splits so far, best first; at most `top`."""
        return self._best.plans

    @property
    def limit(self) -> float:
        """The score that a plan must not exceed to be among the best, ties included."""
        own = float(self._best.values[-1]) if len(self._best) == self.top else np.inf
        return min(own * TIES, self.known_limit)

    def _limits(self, plans: PlanGrid) -> Floats:
        """The score that each plan must not exceed to be the best of its split, and that among the best."""
        limits = np.full(len(plans), self.limit)
        for place, score in enumerate(self._best.values):
            own = np.logical_and.reduce([
                getattr(plans, name) == getattr(self._best.plans, name)[place] for name in SPLIT_FIELDS
            ])  # fmt: skip
            limits[own] = np.minimum(limits[own], score * TIES)
        return limits

    def pour(self, plans: PlanGrid) -> None:
        """Take in one chunk; chunks come in the order of the space."""
        places = np.arange(self.num_seen, self.num_seen + len(plans), dtype=np.intp)
        self.num_seen += len(plans)
        fitting = self._fitting(self._legal(_Batch(plans, places, np.empty(len(plans)))))
        if self.objective != "memory" and not self.wants_front:
            self._price_by_bound(fitting)
        else:
            self._price(fitting)

    def _legal(self, batch: _Batch) -> _Batch:
        allowed, rejected = legal(batch.plans, self.on.job, self.on.cluster)
        _add(self.rejected, rejected)
        self.num_legal += int(np.count_nonzero(allowed))
        batch = batch if allowed.all() else batch.take(np.flatnonzero(allowed))
        return batch.take(self._meeting("plan", batch.plans, None))

    def _fitting(self, batch: _Batch) -> _Batch:
        if not len(batch):
            return batch
        on = self.on
        peak_bytes = memory(batch.plans, on.job, on.stack).peak_bytes
        fits = peak_bytes <= usable_bytes(on.cluster, on.stack)
        self.num_fitting += int(np.count_nonzero(fits))
        if not self.num_fitting:
            nearest = np.argsort(peak_bytes, kind="stable")[:NUM_MISSES]
            found = [(float(peak_bytes[row]), batch.plans.plan(int(row))) for row in nearest]
            self.misses = sorted([*self.misses, *found], key=lambda miss: miss[0])[:NUM_MISSES]
        batch = _Batch(batch.plans, batch.places, peak_bytes).take(np.flatnonzero(fits))
        return batch.take(self._meeting("memory", batch.plans, batch.values))

    def _price_by_bound(self, batch: _Batch) -> None:
        """Price the plans of the lowest bounds, then those of the others that could still be among the best.

        First those of promising splits, then one of every split, then the rest. A plan is dropped when its bound is
        longer than the last plan that would be shown, or than the best known of its own split.
        """
        if not len(batch):
            return
        bound = self._least_score(busy_bound_seconds(batch.plans, self.on.job, self.on.cluster, self.on.stack))
        left = np.ones(len(batch), dtype=bool)
        for num_splits in (FIRST_SPLITS * self.top, len(batch), 0):
            wave = np.full(len(batch), num_splits == 0)
            wave[_lowest_of_each_split(batch.plans, bound, num_splits)] = True
            wave &= left
            left &= ~wave
            rows = np.flatnonzero(wave & (bound <= self._limits(batch.plans)))
            self.num_too_slow += int(np.count_nonzero(wave)) - len(rows)
            self._price(batch.take(rows))

    def _price(self, batch: _Batch) -> None:
        if not len(batch):
            return
        on = self.on
        steps = step_breakdown(batch.plans, on.job, on.cluster, on.stack)
        seconds = steps.step_seconds
        self.num_estimated += len(batch)
        rows = self._meeting("time", batch.plans, seconds)
        score = self._score(steps, batch.values)[rows]
        batch, seconds = batch.take(rows), seconds[rows]
        if self.wants_front:
            self.front.add(batch.plans, seconds, batch.values)
        rows = np.flatnonzero(score <= self.limit)
        self._best = _best_of_each_split(self._best, _Batch(batch.plans, batch.places, score).take(rows), self.top)

    def _score(self, steps: Breakdown, peak_bytes: Floats) -> Floats:
        """What plans are ranked by."""
        if self.objective == "memory":
            return peak_bytes
        return np.asarray(steps.step_seconds if self.on.dollars is None else self.on.dollars(steps))

    def _least_score(self, seconds: Floats) -> Floats:
        """No step of at least so many seconds scores less: none is cheaper than one that only waits."""
        return seconds if self.on.dollars is None else np.asarray(self.on.dollars(Breakdown(idle_seconds=seconds)))

    def _meeting(self, needs: str, plans: PlanGrid, price: Floats | None) -> Rows:
        met, unmet = meeting(self.requirements, needs, plans, price, self.on)
        _add(self.unmet, unmet)
        return np.flatnonzero(met)


def _add(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count


def _lowest_of_each_split(plans: PlanGrid, bound: Floats, num_splits: int) -> Rows:
    """Rows of the `FIRST_OF_SPLIT` lowest bounds of each of the `num_splits` splits whose lowest are the lowest."""
    _, split = combinations(plans, SPLIT_FIELDS)
    order = np.lexsort((bound, split))
    starts = np.flatnonzero(np.diff(split[order], prepend=-1))
    place_in_split = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    lowest = bound[order[starts]]
    picked = np.zeros(len(starts), dtype=bool)
    picked[np.argsort(lowest, kind="stable")[:num_splits]] = True
    return order[(place_in_split < FIRST_OF_SPLIT) & picked[split[order]]]


def _best_of_each_split(first: _Batch, second: _Batch, count: int) -> _Batch:
    """The best plan of each split of two batches, best first, at most `count`; of ties the simpler."""
    names = PlanGrid.__dataclass_fields__
    merged = _Batch(
        PlanGrid(**{name: np.concatenate([getattr(one.plans, name) for one in (first, second)]) for name in names}),
        np.concatenate([first.places, second.places]),
        np.concatenate([first.values, second.values]),
    )
    if not len(merged):
        return merged
    order = np.lexsort((merged.places, np.round(np.log(merged.values), TIE_DIGITS)))
    splits = np.stack([getattr(merged.plans, name)[order] for name in SPLIT_FIELDS], axis=1)
    _, kept = np.unique(splits, axis=0, return_index=True)
    return merged.take(order[np.sort(kept)[:count]])
