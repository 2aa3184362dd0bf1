"""The prices of a lane: each chunk at the rate of the group of nodes that holds it.

Estimate and simulator share them, as they share those of `planner.cost.phase`.
"""

from dataclasses import replace

from planner.cost.between import hop_seconds, spanning_seconds
from planner.cost.phase import ActionPrice, action_price, priced_message
from planner.placement import Lane
from planner.plan import Plan
from planner.work.lanes import lane_plan, replicas_by_group
from planner.work.lower import lower
from planner.work.ops import Message
from planner.work.program import Kind, StepProgram, Work
from planner.work.schedules import SCHEDULES
from profiles.mixed import MixedCluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Prices = dict[tuple[Kind, int], ActionPrice]

_SHARED = (Kind.REDUCE_GRADIENTS, Kind.GATHER_PARAMETERS)
_SENDS = {Kind.SEND_FORWARD: 1, Kind.SEND_BACKWARD: -1}


def lane_program(
    plan: Plan, lane: Lane, job: TrainingJob, stack: SoftwareStack, num_microbatches: int | None = None
) -> StepProgram:
    """What each replica of `lane` does in a step, or in one of `num_microbatches`."""
    return lower(*lane_plan(plan, lane, job, num_microbatches), stack)


def price_lane(program: StepProgram, plan: Plan, lane: Lane, cluster: MixedCluster, stack: SoftwareStack) -> Prices:
    """The price of every (kind, chunk) of a lane's program."""
    rank_of = SCHEDULES[plan.schedule].placement.ranks(plan.pp, plan.vp)
    priced: dict[tuple[object, ...], ActionPrice] = {}
    prices: Prices = {}
    for (kind, chunk), work in program.work.items():
        stage = rank_of[chunk]
        other = rank_of[chunk + _SENDS[kind]] if kind in _SENDS else stage
        key = (kind, id(work), *_seat(plan, lane, kind, stage, other))
        if key not in priced:
            priced[key] = _price(kind, work, plan, lane, (stage, other), cluster, stack)
        prices[kind, chunk] = priced[key]
    return prices


def _seat(plan: Plan, lane: Lane, kind: Kind, stage: int, other: int) -> tuple[object, ...]:
    """What the price of the same work depends on."""
    if kind in _SHARED:
        return tuple(sorted(replicas_by_group(plan, stage).items()))
    if kind in _SENDS:
        return (lane.stages[stage], lane.stages[other], *sorted(replicas_by_group(plan, stage).items()))
    return (lane.stages[stage],)


def _price(
    kind: Kind, work: Work, plan: Plan, lane: Lane, stages: tuple[int, int], cluster: MixedCluster,
    stack: SoftwareStack,
) -> ActionPrice:  # fmt: skip
    here, there = (cluster.group(lane.stages[stage]) for stage in stages)
    messages = [(op, count) for op, count in work.ops if isinstance(op, Message)]
    if kind in _SHARED:
        replicas = replicas_by_group(plan, stages[0])
        seconds = sum(count * spanning_seconds(op, plan, replicas, cluster, plan.pp) for op, count in messages)
        return ActionPrice((("dp", seconds),))
    if kind in _SENDS and here is not there:
        senders = plan.tp * plan.cp * _crossing(plan, lane, stages)
        return ActionPrice((("pp", sum(hop_seconds(op, senders, (here, there), cluster) * n for op, n in messages)),))
    if kind in _SENDS:
        inside = replace(plan, placement=(), dp=replicas_by_group(plan, stages[0])[here.name],
                         pp=max(2, lane.stages.count(here.name)))  # fmt: skip
        seconds = sum(float(priced_message(op, inside, here.cluster)) * count for op, count in messages)
        return ActionPrice((("pp", seconds),))
    return action_price(kind, work, replace(plan, placement=()), here.cluster, stack)


def _crossing(plan: Plan, lane: Lane, stages: tuple[int, int]) -> int:
    """Replicas that send between the same two groups, between the same stages."""
    ends = [lane.stages[stage] for stage in stages]
    return sum(one.num_replicas for one in plan.placement if [one.stages[stage] for stage in stages] == ends)
