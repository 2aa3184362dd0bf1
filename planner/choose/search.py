"""The best plans of a job on a cluster: every legal split, priced at once; the best re-ranked by a simulator."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.breakdown import Breakdown
from planner.choose.explain import why_lost, why_too_big
from planner.choose.legality import legal
from planner.choose.space import MAX_MICRO_BATCH, plan_space, simplicity
from planner.cost.estimate import Estimate, estimate
from planner.cost.memory import usable_bytes
from planner.plan import SCHEDULE_NAMES, Plan, PlanGrid, Recompute
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

CHUNK = 250_000
"""Plans estimated at once; bounds memory, not results."""

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
    num_plans: int
    num_legal: int
    num_fitting: int
    rejected: dict[str, int]
    """Rule -> plans that broke it first."""
    nearest_misses: tuple[NearMiss, ...]
    elapsed_seconds: float


def search(
    job: TrainingJob,
    cluster: Cluster,
    stack: SoftwareStack,
    *,
    fixed: Mapping[str, int | str | bool] | None = None,
    top: int = 10,
    max_micro_batch: int = MAX_MICRO_BATCH,
    simulate: Simulate | None = None,
    on_progress: Progress | None = None,
) -> Answer:
    """Rank the plans of `job` on `cluster` by step time, the best of each split, and say why the others lost.

    `fixed` holds plan fields to a value. Ties go to the simpler plan. Raises ValueError for an unknown field or
    value in `fixed`.
    """
    started = time.perf_counter()
    space = plan_space(job, cluster, _codes(fixed or {}), max_micro_batch)
    allowed, rejected = legal(space, job, cluster)
    plans = space.take(np.flatnonzero(allowed))
    seconds, peak_bytes = _price(plans, job, cluster, stack, on_progress)
    fitting = peak_bytes <= usable_bytes(cluster, stack)
    rows = _best_of_each_split(plans, seconds, np.flatnonzero(fitting))[:top]
    ranked = _rank(plans, rows, job, cluster, stack, simulate, on_progress)
    misses = () if ranked else _nearest_misses(plans, peak_bytes, job, cluster, stack)
    return Answer(
        candidates=ranked,
        num_plans=len(space),
        num_legal=len(plans),
        num_fitting=int(np.count_nonzero(fitting)),
        rejected=rejected,
        nearest_misses=misses,
        elapsed_seconds=time.perf_counter() - started,
    )


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
        elif name == "recompute" and isinstance(value, str):
            codes[name] = int(Recompute.parse(value))
        else:
            codes[name] = int(value)
    return codes


def _price(
    plans: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack, on_progress: Progress | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(step seconds, peak bytes) of every plan, in chunks."""
    seconds, peak_bytes = np.empty(len(plans)), np.empty(len(plans))
    for start in range(0, len(plans), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(plans)))
        priced = estimate(plans.take(rows), job, cluster, stack)
        seconds[rows], peak_bytes[rows] = priced.step_seconds, priced.memory.peak_bytes
        if on_progress:
            on_progress("estimate", int(rows[-1]) + 1, len(plans))
    return seconds, peak_bytes


def _best_of_each_split(plans: PlanGrid, seconds: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of `rows`, the fastest plan of each (tp, pp, cp, ep), fastest first; ties go to the simpler plan."""
    if not len(rows):
        return rows
    some = plans.take(rows)
    order = rows[np.lexsort((*reversed(simplicity(some)), np.round(np.log(seconds[rows]), 9)))]
    ordered = plans.take(order)
    splits = np.stack([ordered.tp, ordered.pp, ordered.cp, ordered.ep], axis=1)
    _, first = np.unique(splits, axis=0, return_index=True)
    return order[np.sort(first)]


def _rank(
    plans: PlanGrid,
    rows: NDArray[np.intp],
    job: TrainingJob,
    cluster: Cluster,
    stack: SoftwareStack,
    simulate: Simulate | None,
    on_progress: Progress | None,
) -> tuple[Candidate, ...]:
    found = []
    for done, row in enumerate(rows):
        plan = plans.plan(int(row))
        played = simulate(plan) if simulate else None
        found.append(Candidate(plan, estimate(plan, job, cluster, stack), played, ""))
        if on_progress and simulate:
            on_progress("simulate", done + 1, len(rows))
    found.sort(key=lambda candidate: candidate.step_seconds)
    return tuple(replace(candidate, reason=_reason(candidate, found[0])) for candidate in found)


def _reason(candidate: Candidate, winner: Candidate) -> str:
    if candidate is winner:
        return "the fastest plan that fits"
    if candidate.simulated and winner.simulated:
        return why_lost(candidate.simulated, winner.simulated)
    return why_lost(candidate.estimate.breakdown, winner.estimate.breakdown)


def _nearest_misses(
    plans: PlanGrid, peak_bytes: NDArray[np.float64], job: TrainingJob, cluster: Cluster, stack: SoftwareStack
) -> tuple[NearMiss, ...]:
    """The legal plans closest to fitting."""
    misses = []
    for row in np.argsort(peak_bytes, kind="stable")[:3]:
        priced = estimate(plans.plan(int(row)), job, cluster, stack)
        over = float(priced.memory.peak_bytes - usable_bytes(cluster, stack))
        misses.append(NearMiss(plans.plan(int(row)), over, why_too_big(priced, cluster, stack)))
    return tuple(misses)
