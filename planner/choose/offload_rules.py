"""What a plan can move to the host."""

from typing import Any

import numpy as np

from planner.choose.rule import Rule
from planner.offload import Offload
from planner.plan import PlanGrid
from profiles.cluster import Cluster
from profiles.workload import TrainingJob


def _link_is_known(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    return (plans.offload == Offload.NOTHING) | (cluster.accelerator.host_bytes_per_second is not None)


def _shards_exist(plans: PlanGrid, job: TrainingJob, cluster: Cluster) -> Any:
    return (np.bitwise_and(plans.offload, int(Offload.PARAMETERS)) == 0) | (plans.zero_stage == 3)


OFFLOAD_RULES = (
    Rule(
        "the host is reached at a known rate",
        _link_is_known,
        lambda p, job, cluster: (
            f"offload={p.offload.words}: the rate between {cluster.accelerator.name} and its host is not known; "
            "give host_gb_per_second in an accelerator file, or offload nothing"
        ),
    ),
    Rule(
        "only sharded parameters live on the host",
        _shards_exist,
        lambda p, job, cluster: (
            f"offload={p.offload.words} with zero_stage={p.zero_stage}: parameters that are not sharded stay where "
            "they are used; take zero_stage=3"
        ),
    ),
)
"""Rules of `planner.choose.legality`."""
