"""The best plans of a job on a cluster: the space in chunks, narrowed by exact bounds, priced, the best simulated."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from planner.breakdown import Breakdown
from planner.choose.explain import why_larger, why_lost, why_too_big
from planner.choose.funnel import Funnel
from planner.choose.requirements import Objective, Requirement, Scenario
from planner.choose.space import Space
from planner.cost.estimate import Estimate, estimate
from planner.cost.layouts import fastest_split, layer_seconds
from planner.cost.memory import usable_bytes
from planner.layout import layout_code, parsed
from planner.offload import Offload
from planner.order import ORDER_NAMES
from planner.placement import parsed as parsed_placement
from planner.placement import placement_code
from planner.plan import SCHEDULE_NAMES, Plan
from planner.recompute import Module, Recompute
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

CHUNK = 250_000
"""Plans looked at together; bounds memory, not results."""

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
        return self.breakdown.step_seconds

    @property
    def breakdown(self) -> Breakdown:
        """Simulated where there is a simulation, else estimated."""
        return self.simulated or self.estimate.breakdown


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
    """Plans whose kernels and blocking messages alone take longer than a plan shown."""
    nearest_misses: tuple[NearMiss, ...]
    front: tuple[Estimate, ...]
    """Plans that no other beats in both step time and memory, fastest first; empty unless asked for."""
    elapsed_seconds: float
    ways: tuple[Candidate, ...] = ()
    """On several groups of nodes: the best plan of each way to lie on them, fastest first."""


def search(
    job: TrainingJob,
    cluster: Cluster,
    stack: SoftwareStack,
    *,
    fixed: Mapping[str, int | str | bool] | None = None,
    top: int = 10,
    max_micro_batch: int | None = None,
    exhaustive: bool = False,
    objective: Objective = "time",
    requirements: Sequence[Requirement] = (),
    wants_front: bool = False,
    dollars: Callable[[Breakdown], Any] | None = None,
    simulate: Simulate | None = None,
    on_progress: Progress | None = None,
) -> Answer:
    """Rank the plans of `job` on `cluster` by `objective`, the best of each split, and say why the others lost.

    `fixed` holds plan fields to a value; `exhaustive` offers every choice of every knob. Ties go to the simpler
    plan. The result is that of pricing every legal plan. `dollars` prices steps, which that objective needs. Raises
    ValueError for an unknown field or value in `fixed`.
    """
    if objective == "dollars" and dollars is None:
        raise ValueError("objective: dollars needs a price; give one (--offer NAME or --price DOLLARS)")
    started = time.perf_counter()
    codes, on = codes_of(fixed or {}), Scenario(job, cluster, stack, dollars if objective == "dollars" else None)
    layouts = _layouts(job, cluster, stack) if stack.uneven_stages else None
    look = partial(Space, job, cluster, codes, max_micro_batch=max_micro_batch, layout_of=layouts,
                   schedules=stack.schedules, orders=stack.rank_orders)  # fmt: skip
    space = look(exhaustive=exhaustive)
    limit = np.inf
    if exhaustive:  # the usual plans are among these too, and soon found: a bound to begin with
        usual = Funnel(on, top, objective, tuple(requirements), wants_front)
        for plans in look().chunks(CHUNK):
            usual.pour(plans)
        limit = usual.limit
    funnel = Funnel(on, top, objective, tuple(requirements), wants_front, limit)
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
        nearest_misses=() if ranked else tuple(_miss(plan, on) for _, plan in funnel.misses),
        front=tuple(estimate(plan, job, cluster, stack) for plan in funnel.front.plans),
        elapsed_seconds=time.perf_counter() - started,
    )


def _layouts(job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Callable[[int], int]:
    """The code of the fastest layout for a number of chunks, found once for each; a layer costs the same in all."""
    costs = layer_seconds(Plan(), job, cluster, stack)

    @cache
    def layout(num_chunks: int) -> int:
        return layout_code(fastest_split(num_chunks, job, *costs))

    return layout


def codes_of(fixed: Mapping[str, int | str | bool]) -> dict[str, int]:
    """Held fields as the codes of grids; raises ValueError for an unknown field or value."""
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
        elif name == "order":
            if value not in ORDER_NAMES:
                raise ValueError(f"fix: order={value!r} is not one of {', '.join(ORDER_NAMES)}")
            codes[name] = ORDER_NAMES.index(value)
        elif name == "placement":
            codes[name] = placement_code(parsed_placement(str(value)))
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


def _rank(funnel: Funnel, simulate: Simulate | None, on_progress: Progress | None) -> tuple[Candidate, ...]:
    on, found = funnel.on, []
    for done, plan in enumerate(funnel.best):
        played = simulate(plan) if simulate else None
        found.append(Candidate(plan, estimate(plan, on.job, on.cluster, on.stack), played, ""))
        if on_progress and simulate:
            on_progress("simulate", done + 1, len(funnel.best))
    if funnel.objective == "time":
        found.sort(key=lambda candidate: candidate.step_seconds)
    elif on.dollars is not None:
        price = on.dollars
        found.sort(key=lambda candidate: float(price(candidate.breakdown)))
    return with_reasons(found, funnel.objective)


def with_reasons(found: Sequence[Candidate], objective: Objective) -> tuple[Candidate, ...]:
    """Ranked candidates, each with why it won or lost."""
    return tuple(replace(one, reason=_reason(one, found[0], objective)) for one in found)


_WINS = {"time": "the fastest plan that fits", "memory": "the smallest plan", "dollars": "the cheapest plan that fits"}


def _reason(candidate: Candidate, winner: Candidate, objective: Objective) -> str:
    if candidate is winner:
        return _WINS[objective]
    if objective == "memory":
        return why_larger(candidate.estimate, winner.estimate)
    if candidate.simulated and winner.simulated:
        return why_lost(candidate.simulated, winner.simulated)
    return why_lost(candidate.estimate.breakdown, winner.estimate.breakdown)


def _miss(plan: Plan, on: Scenario) -> NearMiss:
    priced = estimate(plan, on.job, on.cluster, on.stack)
    over = float(priced.memory.peak_bytes - usable_bytes(on.cluster, on.stack))
    return NearMiss(plan, over, why_too_big(priced, on.cluster, on.stack))
