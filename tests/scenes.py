"""A few jobs and clusters that tests share."""

from collections.abc import Mapping

import numpy as np

from planner.choose.legality import legal
from planner.choose.space import Space
from planner.plan import PlanGrid
from profiles import catalog
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


def job(name: str = "gpt3-6.7B", *, global_batch: int = 64, sequence_length: int = 2048, **fields: str) -> TrainingJob:
    """A training job of a catalogue model."""
    return TrainingJob(model=catalog.model(name), global_batch=global_batch, sequence_length=sequence_length, **fields)


def cluster(num_devices: int = 64, name: str = "dgx-a100") -> Cluster:
    """A catalogue cluster."""
    return catalog.cluster(name, num_devices)


def stack(name: str = "megatron-core", **changes: object) -> SoftwareStack:
    """A catalogue stack, with some fields changed."""
    return catalog.software(name).model_copy(update=changes)


def plan_space(work: TrainingJob, devices: Cluster, fixed: Mapping[str, int] | None = None) -> PlanGrid:
    """The whole usual space at once, where it is known to be small."""
    space = Space(work, devices, fixed, orders=stack().rank_orders)
    return next(space.chunks(max(1, len(space))), PlanGrid.of([]))


def sample(work: TrainingJob, devices: Cluster, count: int) -> PlanGrid:
    """A random sample of at most `count` legal plans of the exhaustive space, always the same."""
    space = Space(work, devices, exhaustive=True)
    generator = np.random.default_rng(0)
    plans = space.take(np.unique(generator.integers(0, len(space), size=8 * count)))
    rows = np.flatnonzero(legal(plans, work, devices)[0])
    return plans.take(np.sort(generator.permutation(rows)[:count]))
