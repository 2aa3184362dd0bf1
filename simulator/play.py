"""One plan on the clock: lowered, priced with the planner's prices, and played as its software stack overlaps."""

from dataclasses import replace

from planner.cost.lanes import Prices, lane_program, price_lane
from planner.cost.phase import price_program
from planner.plan import Plan
from planner.work.lanes import alone_on
from planner.work.lower import lower
from planner.work.program import StepProgram
from profiles.cluster import Cluster
from profiles.mixed import AnyCluster, MixedCluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from simulator.engine import Simulation, simulate


def play_plan(plan: Plan, job: TrainingJob, cluster: AnyCluster, stack: SoftwareStack) -> Simulation:
    """Play one step of `plan`; raises ValueError when its schedule refuses the plan.

    On several groups of nodes the replicas of each lane are played, and the slowest are shown: the others wait for
    them when gradients are reduced.
    """
    whole = cluster if isinstance(cluster, Cluster) else alone_on(plan, cluster)
    if whole is not None:
        program = lower(replace(plan, placement=()), job, stack)
        return _played(program, price_program(program, whole, stack), stack)
    assert isinstance(cluster, MixedCluster)
    lanes = []
    for lane in plan.placement:
        program = lane_program(plan, lane, job, stack)
        lanes.append(_played(program, price_lane(program, plan, lane, cluster, stack), stack))
    return max(lanes, key=lambda played: played.step_seconds)


def _played(program: StepProgram, prices: Prices, stack: SoftwareStack) -> Simulation:
    return simulate(
        program,
        prices,
        dp_overlap=stack.dp_overlap,
        pp_overlap=stack.pp_overlap,
        dp_contention_fraction=stack.dp_contention_fraction,
    )
