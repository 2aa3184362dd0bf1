"""The best plans of a job on a cluster: the space in chunks, narrowed by exact bounds, priced, the best simulated.

A chunk of plans passes the rules, the memory of a device, a lower bound on time and only then the closed forms;
nothing but the best so far is kept, so that memory does not grow with the space.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from planner.breakdown import Breakdown
from planner.choose.bounds import busy_bound_seconds
from planner.choose.explain import why_larger, why_lost, why_too_big
from planner.choose.legality import legal
from planner.choose.pareto import Front
from planner.choose.requirements import Objective, Question, Requirement, meeting
from planner.choose.space import MAX_MICRO_BATCH, Space
from planner.cost.estimate import Estimate, estimate, step_breakdown
from planner.cost.layouts import fastest_layout
from planner.cost.memory import memory, usable_bytes
from planner.layout import layout_code, parsed
from planner.offload import Offload
from planner.plan import SCHEDULE_NAMES, Plan, PlanGrid
from planner.recompute import Module, Recompute
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

CHUNK = 250_000
"""Plans looked at together; bounds memory, not results."""
NUM_MISSES = 3
"""Plans shown when nothing fits."""
SPLIT_FIELDS = ("tp", "pp", "cp", "ep")
"""Of the plans that agree in these, only the best is ranked: a list of one split's variants helps nobody."""
TIE_DIGITS = 9
"""Steps that agree to this many digits (of their logarithm) are a tie; the simpler plan wins."""

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Simulate = Callable[[Plan], Breakdown]
"""Plays one plan on a clock; passed in, so that planner knows no simulator."""
Progress = Callable[[str, int, int], None]
"""Called with (what, done, of how many)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ranked plan. `reason` says why it won or why it lost to the winner."""

    plan: Plan
    estimate: Estimate
    simulated: Breakdown | None
    reason: str

    @property
    def step_seconds(self) -> float:
        """Simulated where there is a simulation, else estimated."""
        return self.simulated.step_seconds if self.simulated else self.estimate.step_seconds


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A legal plan that does not fit, and by how much."""

    plan: Plan
    bytes_over: float
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found. Without candidates, `rejected` and `nearest_misses` say why nothing fits."""

    candidates: tuple[Candidate, ...]
    num_splits: int
    num_plans: int
    num_legal: int
    num_fitting: int
    """Legal plans that fit in memory."""
    num_estimated: int
    """Plans whose step was priced in full; the others that fit were ruled out by a bound or a requirement."""
    rejected: dict[str, int]
    """Rule -> plans that broke it first."""
    unmet: dict[str, int]
    """Requirement -> plans that failed it first."""
    num_too_slow: int
    """Plans whose kernels and blocking messages alone take longer than the last plan shown."""
    nearest_misses: tuple[NearMiss, ...]
    front: tuple[Estimate, ...]
    """Plans that no other beats in both step time and memory, fastest first; empty unless asked for."""
    elapsed_seconds: float


def search(
    job: TrainingJob,
    cluster: Cluster,
    stack: SoftwareStack,
    *,
    fixed: Mapping[str, int | str | bool] | None = None,
    top: int = 10,
    max_micro_batch: int = MAX_MICRO_BATCH,
    exhaustive: bool = False,
    objective: Objective = "time",
    requirements: Sequence[Requirement] = (),
    wants_front: bool = False,
    simulate: Simulate | None = None,
    on_progress: Progress | None = None,
) -> Answer:
    """Rank the plans of `job` on `cluster` by `objective`, the best of each split, and say why the others lost.

    `fixed` holds plan fields to a value; `exhaustive` offers every choice of every knob. Ties go to the simpler
    plan. The result is that of pricing every legal plan. Raises ValueError for an unknown field or value
    in `fixed`.
    """
    started = time.perf_counter()
    codes, on = _codes(fixed or {}), Question(job, cluster, stack)
    layouts = _layouts(job, cluster, stack) if stack.uneven_stages else None
    look = partial(Space, job, cluster, codes, max_micro_batch=max_micro_batch, layout_of=layouts,
                   schedules=stack.schedules)  # fmt: skip
    space = look(exhaustive=exhaustive)
    limit = np.inf
    if exhaustive:  # the usual plans are among these too, and soon found: a bound to begin with
        usual = _Funnel(on, top, objective, tuple(requirements), wants_front)
        for plans in look().chunks(CHUNK):
            usual.pour(plans)
        limit = usual.limit
    funnel = _Funnel(on, top, objective, tuple(requirements), wants_front, limit)
    for plans in space.chunks(CHUNK):
        funnel.pour(plans)
        if on_progress:
            on_progress("estimate", funnel.num_seen, len(space))
    ranked = _rank(funnel, simulate, on_progress)
    return Answer(
        candidates=ranked,
        num_splits=space.num_splits,
        num_plans=len(space),
        num_legal=funnel.num_legal,
        num_fitting=funnel.num_fitting,
        num_estimated=funnel.num_estimated,
        rejected=funnel.rejected,
        unmet=funnel.unmet,
        num_too_slow=funnel.num_too_slow,
        nearest_misses=() if ranked else funnel.nearest_misses(),
        front=tuple(estimate(plan, job, cluster, stack) for plan in funnel.front.plans),
        elapsed_seconds=time.perf_counter() - started,
    )


def _layouts(job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Callable[[int], int]:
    """The code of the fastest layout for a number of chunks, found once for each."""

    @cache
    def layout(num_chunks: int) -> int:
        return layout_code(fastest_layout(Plan(pp=num_chunks), job, cluster, stack))

    return layout


def _codes(fixed: Mapping[str, int | str | bool]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for name, value in fixed.items():
        if name not in Plan.__dataclass_fields__:
            raise ValueError(
                f"fix: {name!r} is not a field of a plan; choose from {', '.join(Plan.__dataclass_fields__)}"
            )
        if name == "schedule":
            if value not in SCHEDULE_NAMES:
                raise ValueError(f"fix: schedule={value!r} is not one of {', '.join(SCHEDULE_NAMES)}")
            codes[name] = SCHEDULE_NAMES.index(value)
        elif name == "layout":
            codes[name] = layout_code(parsed(str(value)))
        elif name == "recompute" and isinstance(value, str):
            codes[name] = int(Recompute.parse(value))
        elif name == "recompute_modules" and isinstance(value, str):
            codes[name] = int(Module.parse(value))
        elif name == "offload" and isinstance(value, str):
            codes[name] = int(Offload.parse(value))
        else:
            codes[name] = int(value)
    return codes


@dataclass(slots=True)
class _Funnel:
    """Narrows chunks of plans to the best of each split, and counts what each step holds back."""

    on: Question
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
    best: PlanGrid = field(default_factory=lambda: PlanGrid.of([]))
    """The best plan of the best splits so far, best first; at most `top`."""
    scores: Floats = field(default_factory=lambda: np.empty(0))
    front: Front = field(default_factory=Front)
    _misses: list[tuple[float, Plan]] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """The score that a plan must not exceed to be among the best."""
        own = float(self.scores[-1]) if len(self.scores) == self.top else np.inf
        return min(own, self.known_limit)

    def pour(self, plans: PlanGrid) -> None:
        """Take in one chunk; chunks come in the order of the space."""
        self.num_seen += len(plans)
        plans = self._legal(plans)
        if len(plans):
            plans, peak_bytes = self._fitting(plans)
            plans, peak_bytes = self._fast_enough(plans, peak_bytes)
            if len(plans):
                self._price(plans, peak_bytes)

    def nearest_misses(self) -> tuple[NearMiss, ...]:
        """The legal plans closest to fitting."""
        return tuple(_miss(plan, self.on) for _, plan in self._misses)

    def _legal(self, plans: PlanGrid) -> PlanGrid:
        allowed, rejected = legal(plans, self.on.job, self.on.cluster)
        _add(self.rejected, rejected)
        self.num_legal += int(np.count_nonzero(allowed))
        plans = plans if allowed.all() else plans.take(np.flatnonzero(allowed))
        return plans.take(self._meeting("plan", plans, None))

    def _fitting(self, plans: PlanGrid) -> tuple[PlanGrid, Floats]:
        on = self.on
        peak_bytes = memory(plans, on.job, on.stack).peak_bytes
        fits = peak_bytes <= usable_bytes(on.cluster, on.stack)
        self.num_fitting += int(np.count_nonzero(fits))
        if not self.num_fitting:
            nearest = np.argsort(peak_bytes, kind="stable")[:NUM_MISSES]
            found = [(float(peak_bytes[row]), plans.plan(int(row))) for row in nearest]
            self._misses = sorted([*self._misses, *found], key=lambda miss: miss[0])[:NUM_MISSES]
        rows = np.flatnonzero(fits)
        plans, peak_bytes = plans.take(rows), peak_bytes[rows]
        rows = self._meeting("memory", plans, peak_bytes)
        return plans.take(rows), peak_bytes[rows]

    def _fast_enough(self, plans: PlanGrid, peak_bytes: Floats) -> tuple[PlanGrid, Floats]:
        """Drop the plans whose mean rank alone is busy for longer than the last plan that would be shown."""
        if self.objective != "time" or self.wants_front or self.limit == np.inf or not len(plans):
            return plans, peak_bytes
        on = self.on
        bound = busy_bound_seconds(plans, on.job, on.cluster, on.stack)
        rows = np.flatnonzero(bound <= self.limit)
        self.num_too_slow += len(plans) - len(rows)
        return plans.take(rows), peak_bytes[rows]

    def _price(self, plans: PlanGrid, peak_bytes: Floats) -> None:
        on = self.on
        seconds = step_breakdown(plans, on.job, on.cluster, on.stack).step_seconds
        self.num_estimated += len(plans)
        rows = self._meeting("time", plans, seconds)
        plans, peak_bytes, seconds = plans.take(rows), peak_bytes[rows], seconds[rows]
        if self.wants_front:
            self.front.add(plans, seconds, peak_bytes)
        score = seconds if self.objective == "time" else peak_bytes
        rows = np.flatnonzero(score <= self.limit)
        plans, score = plans.take(rows), score[rows]
        merged = _concatenate(self.best, plans)
        scores = np.concatenate([self.scores, score])
        kept = _best_of_each_split(merged, scores)[: self.top]
        self.best, self.scores = merged.take(kept), scores[kept]

    def _meeting(self, needs: str, plans: PlanGrid, price: Floats | None) -> Rows:
        met, unmet = meeting(self.requirements, needs, plans, price, self.on)
        _add(self.unmet, unmet)
        return np.flatnonzero(met)


def _add(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count


def _concatenate(first: PlanGrid, second: PlanGrid) -> PlanGrid:
    names = PlanGrid.__dataclass_fields__
    return PlanGrid(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names})


def _best_of_each_split(plans: PlanGrid, scores: Floats) -> Rows:
    """Rows of the best plan of each split, best first; of ties the earlier one, which is the simpler."""
    if not len(plans):
        return np.empty(0, dtype=np.intp)
    order = np.argsort(np.round(np.log(scores), TIE_DIGITS), kind="stable")
    splits = np.stack([getattr(plans, name)[order] for name in SPLIT_FIELDS], axis=1)
    _, first = np.unique(splits, axis=0, return_index=True)
    return order[np.sort(first)]


def _rank(funnel: _Funnel, simulate: Simulate | None, on_progress: Progress | None) -> tuple[Candidate, ...]:
    on, found = funnel.on, []
    for done, plan in enumerate(funnel.best):
        played = simulate(plan) if simulate else None
        found.append(Candidate(plan, estimate(plan, on.job, on.cluster, on.stack), played, ""))
        if on_progress and simulate:
            on_progress("simulate", done + 1, len(funnel.best))
    if funnel.objective == "time":
        found.sort(key=lambda candidate: candidate.step_seconds)
    return tuple(replace(one, reason=_reason(one, found[0], funnel.objective)) for one in found)


def _reason(candidate: Candidate, winner: Candidate, objective: Objective) -> str:
    if candidate is winner:
        return "the fastest plan that fits" if objective == "time" else "the smallest plan"
    if objective == "memory":
        return why_larger(candidate.estimate, winner.estimate)
    if candidate.simulated and winner.simulated:
        return why_lost(candidate.simulated, winner.simulated)
    return why_lost(candidate.estimate.breakdown, winner.estimate.breakdown)


def _miss(plan: Plan, on: Question) -> NearMiss:
    priced = estimate(plan, on.job, on.cluster, on.stack)
    over = float(priced.memory.peak_bytes - usable_bytes(on.cluster, on.stack))
    return NearMiss(plan, over, why_too_big(priced, on.cluster, on.stack))
