"""One plan on the clock: lowered, priced with the planner's prices, and played as its software stack overlaps."""

from planner.cost.phase import price_program
from planner.plan import Plan
from planner.work.lower import lower
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from simulator.engine import Simulation, simulate


def play_plan(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Simulation:
    """Play one step of `plan`; raises ValueError when its schedule refuses the plan."""
    program = lower(plan, job, stack)
    prices = price_program(program, cluster, stack)
    return simulate(
        program,
        prices,
        dp_overlap=stack.dp_overlap,
        pp_overlap=stack.pp_overlap,
        dp_contention_fraction=stack.dp_contention_fraction,
    )
