"""Rules of how data-parallel ranks may exchange gradients under a plan."""

from typing import Any

import numpy as np

from planner.choose.rule import Rule
from planner.plan import Plan, PlanGrid
from profiles.cluster import Cluster
from profiles.workload import TrainingJob


def _whole_gradients(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    exchange = job.exchange
    sends_whole = exchange.has_servers or (exchange.gradient_compression == "top-k" and not exchange.is_local)
    return np.equal(plans.zero_stage, 0) | (not sends_whole)


def _whole_sentence(plan: Plan, job: TrainingJob, cluster: Cluster) -> str:
    exchange = job.exchange
    what = exchange.synchronization if exchange.has_servers else "gradient_compression=top-k"
    return f"{what} exchanges whole gradients, which zero_stage={plan.zero_stage} shards; use zero_stage=0"


def _has_islands(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    return np.greater(plans.dp_replicate, 1) | (not job.exchange.is_local)


def _sums_in_backward(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    return (plans.zero_stage <= 1) | (not job.exchange.is_local)


def _second_copy_helps(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    nearby = job.exchange.secondary_shards
    shards = plans.dp * plans.cp // plans.dp_replicate
    gathers_again = (plans.zero_stage == 3) & (plans.reshard_after_forward == 1)
    return (nearby == 0) | (gathers_again & (shards > nearby) & (np.mod(shards, max(nearby, 1)) == 0))


def _servers_exist(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    return job.exchange.num_servers <= plans.dp * plans.cp


EXCHANGE_RULES = (
    Rule(
        "parameters that travel in fp8 are sharded",
        lambda p, job, cluster: np.greater(p.zero_stage, 0) | (not job.exchange.gathers_fp8),
        lambda p, job, cluster: (
            f"gather_precision=fp8 with zero_stage={p.zero_stage} gathers nothing; take a zero_stage of at least 1"
        ),
    ),
    Rule("servers and sparse gradients take whole gradients", _whole_gradients, _whole_sentence),
    Rule(
        "local training has groups that train alone",
        _has_islands,
        lambda p, job, cluster: (
            f"synchronization=local averages over groups, and dp_replicate={p.dp_replicate} makes one; set it to the "
            "number of groups, at least 2"
        ),
    ),
    Rule(
        "local training keeps gradients whole or shards the optimizer",
        _sums_in_backward,
        lambda p, job, cluster: (
            f"synchronization=local averages parameters once in {job.exchange.sync_interval} steps, but zero_stage="
            f"{p.zero_stage} sums gradients in every backward pass; use 0 or 1"
        ),
    ),
    Rule(
        "a second copy serves backward gathers",
        _second_copy_helps,
        lambda p, job, cluster: (
            f"secondary_shards={job.exchange.secondary_shards} holds parameters for the gathers of backward passes: it "
            f"needs zero_stage=3 (got {p.zero_stage}) with reshard_after_forward, and must divide the "
            f"{p.dp * p.cp // p.dp_replicate} shards"
        ),
    ),
    Rule(
        "servers are ranks",
        _servers_exist,
        lambda p, job, cluster: (
            f"num_servers={job.exchange.num_servers} exceeds the dp*cp={p.dp * p.cp} ranks that could serve"
        ),
    ),
)
