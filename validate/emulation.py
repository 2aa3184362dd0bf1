"""More ranks than cores: ranks take turns, so that a step is predicted by the work that all of them put on the cores.

Prices are those of a rank with a core of its own, as calibrated. A core runs the work of its ranks one after the other,
that of their messages too (gloo's threads run on the same cores): every part takes as many times as long as ranks
share a core. What a rank waits for others is time in which these run; only what no work fills is left of it.
"""

from dataclasses import replace

from planner.breakdown import Breakdown
from planner.cost.estimate import Estimate, estimate
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from simulator.play import play_plan
from validate.launch import num_cores


def ranks_per_core(plan: Plan, cluster: Cluster) -> float:
    """Ranks that share a core of this machine, or of a machine file that was measured with more ranks; 1 on GPUs."""
    if cluster.accelerator.kind != "cpu":
        return 1.0
    return max(plan.num_ranks / max(cluster.num_devices, num_cores()), 1.0)


def taking_turns(alone: Breakdown, num_sharing: float) -> Breakdown:
    """The breakdown of a rank that shares its core with `num_sharing - 1` others alike, out of that of a rank alone.

    The step is the longer of all work on a core and of the rank's own step, waiting included: work is conserved, and
    no order of it is shorter than its longest chain.
    """
    step_seconds = alone.step_seconds
    parts = {f"{name}_seconds": num_sharing * seconds for name, seconds in alone.parts().items() if name != "idle"}
    return Breakdown(**parts, idle_seconds=max(step_seconds - sum(parts.values()), 0.0))


def predicted(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> tuple[Estimate, Breakdown]:
    """(estimate, simulated breakdown) of a plan as it runs here: on cores of its own, or taking turns."""
    estimated, simulated = estimate(plan, job, cluster, stack), play_plan(plan, job, cluster, stack).breakdown
    num_sharing = ranks_per_core(plan, cluster)
    if num_sharing == 1.0:
        return estimated, simulated
    shared = replace(estimated, breakdown=taking_turns(estimated.breakdown, num_sharing))
    return shared, taking_turns(simulated, num_sharing)
