"""One training step on groups of nodes that differ: unequal stages, and replicas with unequal shares of the batch.

Gradients are sums over sequences, so that unequal shares leave the step what it is: each replica adds up its own, and
the reduction weighs a sequence as before. The step ends when the slowest replica is done.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate, estimate
from planner.cost.lanes import Prices, lane_program, price_lane
from planner.cost.memory import MemoryBreakdown, stage_memory, usable_bytes
from planner.cost.overlap import exposed_seconds, stack_contention_fraction
from planner.cost.walk import Walk, walk
from planner.placement import Lane
from planner.plan import Plan, PlanGrid
from planner.work.lanes import alone_on, lane_plan
from planner.work.program import PASSES, SENDS, Kind, StepProgram
from planner.work.schedules import SCHEDULES, chunk_lead, chunks_per_rank
from profiles.cluster import Cluster
from profiles.mixed import AnyCluster, MixedCluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

SHORT_ROUNDS, SHORT_ROUNDS_OF_CHUNKS = 4, 2
"""Rounds of p microbatches after which every further round of a pipeline takes as long as the one before: with one
chunk a rank, and with several."""


def price(plan: Plan, job: TrainingJob, cluster: AnyCluster, stack: SoftwareStack) -> Estimate:
    """Step time and memory of one plan on a cluster of any kind."""
    if isinstance(cluster, Cluster):
        return estimate(plan, job, cluster, stack)
    alone = alone_on(plan, cluster)
    if alone is not None:
        found = estimate(replace(plan, placement=()), job, alone, stack)
        return replace(found, plan=plan)
    return Estimate(plan, mixed_breakdown(plan, job, cluster, stack), tightest_seat(plan, job, cluster, stack).memory)


def home_of(plan: Plan, job: TrainingJob, cluster: AnyCluster, stack: SoftwareStack) -> Cluster:
    """The nodes of the rank that has the least memory left: all of them where they are alike."""
    if isinstance(cluster, Cluster):
        return cluster
    return cluster.group(tightest_seat(plan, job, cluster, stack).group).cluster


def tightest_seat(plan: Plan, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> "SeatMemory":
    """The rank that has the least memory left."""
    return min(seat_memory(plan, job, cluster, stack), key=lambda seat: seat.headroom_bytes)


@dataclass(frozen=True, slots=True)
class SeatMemory:
    """What a rank of one stage of one lane holds, and what its device has."""

    lane: Lane
    stage: int
    group: str
    memory: MemoryBreakdown
    usable_bytes: float

    @property
    def headroom_bytes(self) -> float:
        """What is left of what a plan may use; below zero it does not fit."""
        return self.usable_bytes - float(self.memory.peak_bytes)


def seat_memory(plan: Plan, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> list[SeatMemory]:
    """The memory of every stage of lanes that lie differently, of those alike the one with the most microbatches."""
    found = []
    longest = {lane.stages: lane for lane in sorted(plan.placement, key=lambda lane: lane.num_microbatches)}
    for lane in longest.values():
        held = stage_memory(*lane_plan(plan, lane, job), stack)
        for stage, (name, memory) in enumerate(zip(lane.stages, held, strict=True)):
            found.append(SeatMemory(lane, stage, name, memory, usable_bytes(cluster.group(name).cluster, stack)))
    return found


def mixed_breakdown(plan: Plan, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> Breakdown:
    """Where the step's time goes on the busiest rank of the slowest lane.

    Each lane is walked with its own prices; the last of its ranks then finishes what it cannot hide of its gradient
    reduction [Narayanan 2021, arXiv:2104.04473, section 2.2] and updates its parameters.
    """
    lanes = [lane_breakdown(plan, lane, job, cluster, stack) for lane in plan.placement]
    return max(lanes, key=lambda one: float(one.step_seconds))


def lane_breakdown(plan: Plan, lane: Lane, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> Breakdown:
    """The step of one lane alone, on its busiest rank. Source: see `mixed_breakdown`."""
    numbers = _walked_numbers(plan, lane)
    programs = [lane_program(plan, lane, job, stack, number) for number in numbers]
    prices = price_lane(programs[0], plan, lane, cluster, stack)
    whole = _extended(lane, numbers, [_walked(program, prices, stack) for program in programs])
    silent = _extended(lane, numbers, [_walked(program, prices, stack, messages=False) for program in programs])
    ranks = [_RankTimes.of(plan, rank, programs[0], prices, lane.num_microbatches, stack) for rank in range(plan.pp)]
    late = max(0.0, *(one.gather - start for one, start in zip(ranks, whole.start_seconds, strict=True)))
    ends = [end + one.reduce + one.optimizer for one, end in zip(ranks, whole.end_seconds, strict=True)]
    last = int(np.argmax(ends))
    busiest = max(range(plan.pp), key=lambda rank: ranks[rank].busy)
    passes = lane.num_microbatches * np.array(list(ranks[busiest].passes.values()))
    parts = dict(zip(ranks[busiest].passes, passes.tolist(), strict=True))
    exposed = max(ends) - whole.whole_seconds - ranks[last].optimizer
    return Breakdown(
        **{f"{name}_seconds": seconds for name, seconds in parts.items()},
        optimizer_seconds=ranks[last].optimizer + min(exposed, 0.0),
        pp_seconds=whole.whole_seconds - silent.whole_seconds,
        dp_seconds=late + max(exposed, 0.0),
        idle_seconds=max(silent.whole_seconds - sum(parts.values()), 0.0),
    )


class LaneTimes(NamedTuple):
    """About how long a lane takes: something once, and its slowest stage, or message, for each microbatch."""

    once_seconds: float
    each_seconds: float

    def step_seconds(self, num_microbatches: float) -> float:
        """Of a step of so many microbatches."""
        return self.once_seconds + self.each_seconds * num_microbatches


def lane_times(plan: Plan, lane: Lane, job: TrainingJob, cluster: MixedCluster, stack: SoftwareStack) -> LaneTimes:
    """A lane without a walk: the first microbatch passes all stages, every other one the slowest.

    [Narayanan 2021, arXiv:2104.04473, section 2.2]; what a rank cannot hide of its gradient reduction and parameter
    gather comes once, and messages between stages as often as they are passed. A link that needs longer for a
    microbatch than any stage is the slowest of them.
    """
    program = lane_program(plan, lane, job, stack, plan.pp)
    prices = price_lane(program, plan, lane, cluster, stack)
    ranks = [_RankTimes.of(plan, rank, program, prices, plan.pp, stack) for rank in range(plan.pp)]
    busy = [one.busy for one in ranks]
    rank_of = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
    sending = [0.0] * plan.pp
    for (kind, chunk), one in prices.items():
        if kind in SENDS:
            sending[rank_of[chunk]] += one.total_seconds
    each = max(*busy, *sending) if stack.pp_overlap else max(np.add(busy, sending))
    once = max(one.reduce + one.optimizer for one in ranks) + max(one.gather for one in ranks)
    return LaneTimes(float(once + (sum(busy) - max(busy) + sum(sending)) / plan.vp + max(busy) - each), float(each))


@dataclass(frozen=True, slots=True)
class _RankTimes:
    """One pipeline rank: seconds of what it does besides waiting."""

    passes: dict[str, float]
    """Of one microbatch, by part of a breakdown."""
    reduce: float
    """What it cannot hide of its gradient reduction."""
    gather: float
    """What it cannot hide of its parameter gather, at the start of the step."""
    optimizer: float

    @property
    def busy(self) -> float:
        """Of one microbatch."""
        return sum(self.passes.values())

    @classmethod
    def of(
        cls, plan: Plan, rank: int, program: StepProgram, prices: Prices, num_microbatches: int, stack: SoftwareStack
    ) -> "_RankTimes":
        rank_of = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
        own = [chunk for chunk, place in enumerate(rank_of) if place == rank]
        splits = SCHEDULES[plan.schedule].splits_backward
        passes: dict[str, float] = {}
        for kind in (Kind.FORWARD, Kind.BACKWARD):
            for chunk in own:
                for name, seconds in prices[kind, chunk].seconds_by_part:
                    passes[name] = passes.get(name, 0.0) + seconds

        def total(kind: Kind) -> float:
            return sum(prices[kind, chunk].total_seconds for chunk in own if (kind, chunk) in prices)

        grid, backward = PlanGrid.of([plan]), total(Kind.BACKWARD)
        last_pass = total(Kind.BACKWARD_WEIGHT) if splits else backward
        overlap = {
            "num_buckets": float(sum(program.num_gradient_buckets[chunk] for chunk in own)),
            "overlaps": stack.dp_overlap,
            "contention_fraction": stack_contention_fraction(stack),
            "num_chunks": chunks_per_rank(plan.schedule, plan.vp),
        }
        lead = float(chunk_lead(grid.schedule, grid.pp, num_microbatches)[0])
        reduce = exposed_seconds(
            total(Kind.REDUCE_GRADIENTS), last_pass, **overlap, chunk_lead=lead, chunk_compute=backward
        )
        gather = exposed_seconds(total(Kind.GATHER_PARAMETERS), total(Kind.FORWARD), **overlap, chunk_lead=plan.pp)
        return cls(passes, float(reduce), float(gather), total(Kind.OPTIMIZER))


def _walked_numbers(plan: Plan, lane: Lane) -> list[int]:
    """Microbatches that are walked: all, or those of two short steps a round apart."""
    number, rounds = lane.num_microbatches, plan.pp
    short = (SHORT_ROUNDS if plan.vp == 1 else SHORT_ROUNDS_OF_CHUNKS) * rounds + number % rounds
    return [number] if number <= short + 2 * rounds else [short, short + rounds]


def _extended(lane: Lane, numbers: list[int], walks: list[Walk]) -> Walk:
    """The walk of the lane's whole step, each further round as long as the last one."""
    if len(walks) == 1:
        return walks[0]
    short, longer = walks
    rounds = (lane.num_microbatches - numbers[0]) / (numbers[1] - numbers[0])
    return Walk(short.start_seconds, short.end_seconds + rounds * (longer.end_seconds - short.end_seconds))


def _walked(program: StepProgram, prices: Prices, stack: SoftwareStack, *, messages: bool = True) -> Walk:
    seconds = {key: one.total_seconds if messages or key[0] in PASSES else 0.0 for key, one in prices.items()}
    return walk(program, lambda kind, chunk: seconds[kind, chunk], overlaps=stack.pp_overlap)
