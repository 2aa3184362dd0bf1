"""Which plans a sweep runs: all that are legal and can be run here, each at the microbatch the estimate likes best."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from planner.choose.legality import legal
from planner.choose.search import codes_of
from planner.choose.space import Space
from planner.cost.estimate import estimate
from planner.plan import Plan, PlanGrid
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.runnable import RUNNABLE_SCHEDULES, is_runnable

_CHUNK = 4096


def runnable_plans(
    job: TrainingJob, cluster: Cluster, stack: SoftwareStack, fixed: Mapping[str, int | str | bool]
) -> tuple[Plan, ...]:
    """The plans of all devices of `cluster` that validate can run, fastest by estimate first.

    `fixed` holds plan fields to a value; nothing is recomputed unless it says so. Of plans that differ in their
    microbatch alone the one estimated fastest stands for all. Raises ValueError when none is left.
    """
    held = codes_of({"recompute": "none", **fixed})
    space = Space(job, cluster, held, exhaustive=True, schedules=RUNNABLE_SCHEDULES)
    best: dict[tuple[Any, ...], tuple[float, Plan]] = {}
    for plans in space.chunks(_CHUNK):
        for plan, seconds in _priced(plans, job, cluster, stack):
            key = tuple(value for name, value in asdict(plan).items() if name != "micro_batch")
            if key not in best or seconds < best[key][0]:
                best[key] = (seconds, plan)
    if not best:
        raise ValueError(
            f"sweep: validate can run no plan of {job.model.name} on {cluster.num_devices} ranks; "
            "`meshwise validate` with one of them says why"
        )
    return tuple(plan for _, plan in sorted(best.values(), key=lambda found: found[0]))


def _priced(plans: PlanGrid, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Iterator[tuple[Plan, float]]:
    """The plans of a chunk that can be run, with their estimated steps."""
    mask, _ = legal(plans, job, cluster)
    rows = [row for row in np.flatnonzero(mask) if is_runnable(job, plans.plan(int(row)))]
    if rows:
        grid = plans.take(np.array(rows))
        steps = np.broadcast_to(estimate(grid, job, cluster, stack).step_seconds, len(rows))
        yield from zip(grid, map(float, steps), strict=True)
