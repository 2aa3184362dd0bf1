"""The plans worth looking at for a job on a cluster: every split of its devices, with every option."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from planner.plan import PLAN_FIELDS, SCHEDULE_NAMES, Plan, PlanGrid, Recompute
from planner.work.layers import divides_evenly, num_blocks
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.workload import TrainingJob

MAX_MICRO_BATCH = 16
MIN_TOKENS_PER_CONTEXT_RANK = 4096
"""Context parallelism is searched only while every rank keeps this many tokens of a sequence."""


@dataclass(frozen=True, slots=True)
class Split:
    """Degrees whose product is the number of devices."""

    tp: int
    pp: int
    cp: int
    dp: int


def divisors(number: int) -> list[int]:
    """Divisors of a positive integer, ascending."""
    small = [factor for factor in range(1, int(number**0.5) + 1) if number % factor == 0]
    return sorted({*small, *(number // factor for factor in small)})


def splits(job: TrainingJob, cluster: Cluster) -> Iterator[Split]:
    """Every split of the devices whose degrees the model can use at all."""
    devices, model = cluster.num_devices, job.model
    most_tp = model.num_heads if isinstance(model, TransformerShape) else 1
    most_cp = job.sequence_length // MIN_TOKENS_PER_CONTEXT_RANK if isinstance(model, TransformerShape) else 1
    for tp in (degree for degree in divisors(devices) if degree <= most_tp):
        for pp in (degree for degree in divisors(devices // tp) if degree <= num_blocks(model)):
            for cp in (degree for degree in divisors(devices // tp // pp) if degree <= max(1, most_cp)):
                yield Split(tp, pp, cp, devices // tp // pp // cp)


def plan_space(
    job: TrainingJob, cluster: Cluster, fixed: Mapping[str, int], max_micro_batch: int = MAX_MICRO_BATCH
) -> PlanGrid:
    """All plans to consider, before the rules; `fixed` holds plan fields (as grid codes) to a value.

    A fixed value that no split offers leaves the grid without plans; `planner.choose.search` says so.
    """
    blocks = [
        _options(split, job, fixed, max_micro_batch)
        for split in splits(job, cluster)
        if all(fixed.get(axis, getattr(split, axis)) == getattr(split, axis) for axis in ("tp", "pp", "cp", "dp"))
    ]
    if not blocks:
        return PlanGrid.of([])
    columns = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in PLAN_FIELDS}
    grid = PlanGrid(**columns)
    interleaved = SCHEDULE_NAMES.index("interleaved")
    consistent = ((grid.vp > 1) == (grid.schedule == interleaved)) | (len(set(fixed) & {"vp", "schedule"}) > 0)
    return grid.take(np.flatnonzero(consistent))


def _options(split: Split, job: TrainingJob, fixed: Mapping[str, int], max_micro_batch: int) -> PlanGrid:
    experts = 1
    if isinstance(job.model, TransformerShape) and job.model.moe:
        experts = job.model.moe.num_experts
    sequences = max(1, job.global_batch // split.dp)
    blocks = num_blocks(job.model)
    replicas = split.dp * split.cp
    choices: dict[str, list[int]] = {
        "ep": [degree for degree in divisors(replicas) if experts % degree == 0],
        "micro_batch": [size for size in divisors(sequences) if size <= max_micro_batch],
        "vp": [1]
        if split.pp == 1
        else [vp for vp in range(1, blocks // split.pp + 1) if divides_evenly(blocks, split.pp * vp)] or [1],
        "schedule": list(range(len(SCHEDULE_NAMES))) if split.pp > 1 else [SCHEDULE_NAMES.index("1f1b")],
        "recompute": [int(policy) for policy in Recompute],
        "sequence_parallel": [0, 1] if split.tp > 1 else [0],
        "zero_stage": [0, 1] if replicas > 1 else [0],
    }
    for name, value in fixed.items():
        if name in choices:
            choices[name] = [value]
    default = {"tp": split.tp, "pp": split.pp, "cp": split.cp, "dp": split.dp}
    names = list(choices)
    mesh = np.meshgrid(*(np.array(choices[name], dtype=np.int64) for name in names), indexing="ij")
    columns = {name: np.ravel(axis) for name, axis in zip(names, mesh, strict=True)}
    size = len(columns[names[0]])
    columns |= {name: np.full(size, value, dtype=np.int64) for name, value in default.items()}
    return PlanGrid(**columns)


def simplicity(plans: PlanGrid) -> tuple[np.ndarray, ...]:
    """Sort keys that break ties: fewer ranks in each finer axis, fewer options, in a fixed order of fields."""
    order = (
        "pp",
        "tp",
        "cp",
        "ep",
        "vp",
        "recompute",
        "zero_stage",
        "sequence_parallel",
        "schedule",
        "micro_batch",
    )
    return tuple(getattr(plans, name) for name in order if name in Plan.__dataclass_fields__)
