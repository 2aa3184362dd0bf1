"""The rules of plans on clusters of several groups of nodes, beside those of every plan."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from planner.choose.legality import check_plan
from planner.offload import Offload
from planner.order import USUAL_ORDER
from planner.plan import Plan
from planner.work.lanes import alone_on, lane_plan, replicas_by_group
from planner.work.schedules import num_copies
from planner.work.sharding import runs_messages_by_layer
from profiles.cluster import Cluster
from profiles.exchange import Exchange
from profiles.mixed import AnyCluster, MixedCluster
from profiles.workload import TrainingJob


def check_placed(plan: Plan, job: TrainingJob, cluster: AnyCluster) -> list[str]:
    """A sentence for every rule that `plan` breaks on a cluster of any kind; raises ValueError for an unknown group."""
    if isinstance(cluster, Cluster):
        return check_plan(plan, job, cluster)
    faults = list(_placement_faults(plan, job, cluster))
    if faults:
        return faults
    if alone_on(plan, cluster) is None:
        faults += _shared_faults(plan, job)
    for lane in plan.placement:
        group = cluster.group(lane.stages[0]).cluster
        whole = group.model_copy(update={"num_devices": plan.num_ranks})
        faults += [fault for fault in check_plan(*lane_plan(plan, lane, job), whole) if fault not in faults]
    return faults


def _placement_faults(plan: Plan, job: TrainingJob, cluster: MixedCluster) -> Iterator[str]:
    """What is wrong with the placement as such."""
    if not plan.placement:
        yield f"placement: {cluster.name} has several groups of nodes; say which holds what, or leave it to auto"
        return
    for lane in plan.placement:
        if len(lane.stages) != plan.pp:
            yield f"placement: a replica has pp={plan.pp} stages, and one is given {len(lane.stages)}"
            return
    num_replicas = sum(lane.num_replicas for lane in plan.placement)
    if num_replicas != plan.dp:
        yield f"placement: dp={plan.dp}, and {num_replicas} replicas are placed"
    sequences = sum(lane.num_replicas * lane.num_microbatches for lane in plan.placement) * plan.micro_batch
    if sequences != job.global_batch or any(lane.num_microbatches < 1 for lane in plan.placement):
        yield (
            f"placement: the replicas run {sequences} sequences together, at least one microbatch each, and the global "
            f"batch has {job.global_batch}"
        )
    used: Counter[str] = Counter()
    for lane in plan.placement:
        for name in lane.stages:
            used[name] += lane.num_replicas * plan.tp * plan.cp
    for name, number in used.items():
        available = cluster.group(name).cluster.num_devices
        if number > available:
            yield f"placement: {name} has {available} devices, and the plan puts {number} ranks there"


def _shared_faults(plan: Plan, job: TrainingJob) -> Iterator[str]:
    """What replicas and stages on different groups, or with different shares, cannot do together."""
    if runs_messages_by_layer(plan):
        yield (
            f"zero_stage={plan.zero_stage}: parameters or gradients that travel with every microbatch need as many on "
            "every replica; take zero_stage 0 or 1"
        )
    if plan.dp_replicate > 1:
        yield f"dp_replicate={plan.dp_replicate}: replicas on several groups shard over all of dp; take 1"
    if plan.offload != Offload.NOTHING:
        yield f"offload={plan.offload.words}: hosts of several groups differ; take nothing"
    if plan.order != USUAL_ORDER:
        yield f"order={plan.order}: ranks on several groups are numbered {USUAL_ORDER}"
    if num_copies(plan.schedule) > 1:
        yield f"schedule={plan.schedule}: holds two copies of the model in one pipeline, which must be equal stages"
    if job.exchange != Exchange():
        yield "exchange: replicas on several groups sum their gradients by a plain all-reduce or its sharded form"
    experts = plan.etp * plan.ep
    for stage in range(plan.pp):
        for name, replicas in replicas_by_group(plan, stage).items():
            if plan.tp * plan.cp * replicas % experts:
                yield (
                    f"ep: etp*ep = {experts} must divide the {plan.tp * plan.cp * replicas} ranks of a stage on {name}"
                )
                return


def with_shares(plan: Plan, job: TrainingJob) -> Plan:
    """`plan` with an equal share of the microbatches for every lane that states none."""
    equal = job.global_batch // (plan.dp * plan.micro_batch)
    lanes = (lane if lane.num_microbatches else lane._replace(num_microbatches=equal) for lane in plan.placement)
    return replace(plan, placement=tuple(lanes))
