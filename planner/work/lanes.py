"""A placement's lanes as plans of their own: what each replica of a lane does in a step."""

from dataclasses import replace

from planner.placement import Lane
from planner.plan import Plan
from profiles.cluster import Cluster
from profiles.mixed import MixedCluster
from profiles.workload import TrainingJob


def lane_plan(
    plan: Plan, lane: Lane, job: TrainingJob, num_microbatches: int | None = None
) -> tuple[Plan, TrainingJob]:
    """(plan, job) whose replicas all run what those of `lane` run, or `num_microbatches` of it.

    The degrees stay: states are sharded, and gradients summed, over the replicas of all lanes.
    """
    number = lane.num_microbatches if num_microbatches is None else num_microbatches
    return replace(plan, placement=()), job.model_copy(update={"global_batch": number * plan.dp * plan.micro_batch})


def replicas_by_group(plan: Plan, stage: int) -> dict[str, int]:
    """Replicas whose stage `stage` lies on each group of nodes."""
    found: dict[str, int] = {}
    for lane in plan.placement:
        name = lane.stages[stage]
        found[name] = found.get(name, 0) + lane.num_replicas
    return found


def alone_on(plan: Plan, cluster: MixedCluster) -> Cluster | None:
    """The nodes that `plan` uses, if they are alike and all replicas are: such a plan is priced as on any cluster."""
    names = {name for lane in plan.placement for name in lane.stages}
    if len(names) > 1 or len(plan.placement) > 1:
        return None
    whole = cluster.group(names.pop()).cluster
    if plan.num_ranks == whole.num_devices:
        return whole
    tiers = [tier for tier in whole.tiers if tier.num_devices < plan.num_ranks]
    outer = whole.tiers[len(tiers)].model_copy(update={"num_devices": plan.num_ranks})
    return whole.model_copy(update={"num_devices": plan.num_ranks, "tiers": (*tiers, outer)})
