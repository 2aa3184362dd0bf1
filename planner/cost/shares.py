"""What unequal devices get: layers by what a stage's device needs for them, microbatches by what a replica needs."""

import heapq
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.layouts import layer_seconds, stages_that_fit
from planner.cost.memory import usable_bytes
from planner.cost.mixed import LaneTimes, lane_times
from planner.layout import EVEN, Layout
from planner.placement import Lane, Placement
from planner.plan import Plan
from planner.work.assign import assign
from planner.work.layers import divides_evenly, num_blocks
from planner.work.schedules import SCHEDULES
from profiles.mixed import MixedCluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
LaneSpec = tuple[int, tuple[str, ...]]
"""(replicas, group of each stage)."""


@dataclass(frozen=True, slots=True)
class LayerSeconds:
    """Seconds of one microbatch on each group of nodes: of every layer that is dealt out, of embedding and head."""

    layers: dict[str, Floats]
    ends: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, plan: Plan, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> "LayerSeconds":
        """Price every layer on every group."""
        found = {group.name: layer_seconds(plan, job, group.cluster, stack) for group in cluster.groups}
        return cls({name: one[0] for name, one in found.items()}, {name: one[1:] for name, one in found.items()})


def balanced_layouts(
    plan: Plan, lanes: Sequence[LaneSpec], table: LayerSeconds, job: TrainingJob, cluster: MixedCluster,
    stack: SoftwareStack, *, limited: bool = False,
) -> list[Layout]:  # fmt: skip
    """Layouts worth pricing: for each lane the one that suits its microbatches; if `limited` among those that fit.

    Stages of a lane on slow devices get fewer layers, exactly [Bellman 1957; Narayanan 2019, arXiv:1806.03377, section
    3.1]. Equal stages are among them where the layers divide.
    """
    ranks = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
    found: dict[Layout, None] = {}
    blocks = num_blocks(job.model)
    if divides_evenly(blocks, len(ranks)):
        found[EVEN] = None
    if len(ranks) == blocks:
        return list(found)
    number = job.global_batch / plan.micro_batch / plan.dp
    for _, stages in lanes:
        costs = np.stack([table.layers[stages[rank]] for rank in ranks])
        ends = table.ends[stages[ranks[0]]][0], table.ends[stages[ranks[-1]]][1]
        limits = [usable_bytes(cluster.group(name).cluster, stack) for name in stages]
        allowed = stages_that_fit(plan, job, np.array(limits), stack) if limited and plan.vp == 1 else None
        with suppress(ValueError):  # no layout of this lane fits
            found[assign(costs, len(ranks), *ends, allowed, num_microbatches=number * plan.vp)] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Shares:
    """A plan whose microbatches are dealt out, and about how long its step takes."""

    plan: Plan
    step_seconds: float


def shared_out(
    plan: Plan, lanes: Sequence[LaneSpec], job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack
) -> Shares | None:
    """Microbatches for every replica so that the slowest ends soonest; None where there are fewer than replicas.

    A lane takes what it does once and its slowest stage for each microbatch [Narayanan 2021, arXiv:2104.04473, section
    2.2]. One microbatch after the other (or as many as the schedule takes at once) goes to the replica that would end
    first with it, which is optimal as times grow with shares.
    """
    number, unit = job.global_batch // plan.micro_batch, _unit(plan)
    if number % unit or number // unit < plan.dp:
        return None
    equal = tuple(Lane(replicas, unit, names) for replicas, names in lanes)
    times = [lane_times(replace(plan, placement=equal), lane, job, cluster, stack) for lane in equal]
    total = _levelled([replicas for replicas, _ in lanes], times, unit, number // unit)
    placement: list[Lane] = []
    latest = 0.0
    for lane, units, own in zip(equal, total, times, strict=True):
        each, more = divmod(units, lane.num_replicas)
        placement += _lanes(lane, each, more, unit)
        latest = max(latest, own.step_seconds((each + bool(more)) * unit))
    return Shares(replace(plan, placement=tuple(placement)), latest)


def _lanes(lane: Lane, each: int, more: int, unit: int) -> Placement:
    """The replicas of a lane, `more` of which run a unit more than `each`."""
    counts = ((more, each + 1), (lane.num_replicas - more, each))
    return tuple(Lane(count, share * unit, lane.stages) for count, share in counts if count)


def _levelled(replicas: Sequence[int], times: Sequence[LaneTimes], unit: int, number: int) -> list[int]:
    """Units of `unit` microbatches by lane, at least one a replica, so that the last replica ends soonest."""
    total = list(replicas)
    left = number - sum(total)
    slopes = [one.each_seconds * unit for one in times]
    rate = sum(count / slope for count, slope in zip(replicas, slopes, strict=True))
    started = sum(count * one.once_seconds / slope for count, one, slope in zip(replicas, times, slopes, strict=True))
    level = (number + started) / rate  # all would end here if units were divisible: nobody gets two less than that
    for lane, (count, one, slope) in enumerate(zip(replicas, times, slopes, strict=True)):
        rounds = max(0, int((level - one.once_seconds) / slope) - 2)
        total[lane] += count * min(rounds, left // count)
        left = number - sum(total)
    ends = [one.once_seconds + slope for one, slope in zip(times, slopes, strict=True)]
    queue = [(ends[lane] + slopes[lane] * (total[lane] // count), lane) for lane, count in enumerate(replicas)]
    heapq.heapify(queue)
    for _ in range(left):
        _, lane = heapq.heappop(queue)
        total[lane] += 1
        heapq.heappush(queue, (ends[lane] + slopes[lane] * (total[lane] // replicas[lane]), lane))
    return total


def _unit(plan: Plan) -> int:
    """Microbatches that the schedule takes at once: one, or as many as there are stages."""
    rules = SCHEDULES[plan.schedule].requirements
    free = all(rule.holds(plan.pp, 4 * plan.pp + 1, plan.vp) for rule in rules)
    return 1 if free else plan.pp
