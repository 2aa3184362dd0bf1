"""Every setting of the knobs on every skeleton of one tensor- and context-parallel degree, with a bound on its step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.choose.mixed_bound import bound_seconds, model_seconds
from planner.choose.skeletons import Skeleton, skeletons
from planner.choose.space import Space
from planner.cost.memory import memory, usable_bytes
from planner.plan import Plan, PlanGrid
from planner.work.layers import num_blocks
from planner.work.schedules import num_copies
from planner.work.sharding import runs_messages_by_layer
from profiles.mixed import MixedCluster
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frame:
    """Candidates of one (tp, cp) whose stages, if equal, fit the largest device."""

    skeletons: Sequence[Skeleton]
    settings: PlanGrid
    skeleton_of: Ints
    """Of each candidate, as `setting_of`."""
    setting_of: Ints
    bound_seconds: Floats
    num_plans: int
    """Candidates before any was dropped."""
    num_legal: int

    def __len__(self) -> int:
        return len(self.bound_seconds)

    def at(self, place: int) -> tuple[Skeleton, Plan]:
        """One candidate: where its replicas lie, and its other fields."""
        return self.skeletons[self.skeleton_of[place]], self.settings.plan(int(self.setting_of[place]))


@dataclass(frozen=True, slots=True)
class Choices:
    """What a search is about, and what it may choose."""

    job: TrainingJob
    cluster: MixedCluster
    stack: SoftwareStack
    held: dict[str, int]
    """Fields of plans that are held to a value, as the codes of grids."""
    max_micro_batch: int | None
    exhaustive: bool


def frame(tp: int, cp: int, choices: Choices) -> Frame | None:
    """All candidates of a degree, or None where there are none."""
    job, cluster, stack, held = choices.job, choices.cluster, choices.stack, choices.held
    some = [
        one
        for one in skeletons(cluster, tp, cp, num_blocks(job.model))
        if held.get("pp", one.pp) == one.pp and held.get("dp", one.dp) == one.dp
        if one.dp <= job.global_batch
    ]
    if not some:
        return None
    shapes = sorted({(one.pp, one.dp) for one in some})
    grids = _settings(tp, cp, shapes, choices)
    whole = PlanGrid(**{
        field.name: np.concatenate([getattr(grid, field.name) for grid in grids]) for field in fields(PlanGrid)
    })  # fmt: skip
    legal = _can_be_placed(whole)
    large = job.model_copy(update={"global_batch": job.global_batch * int(whole.dp.max(initial=1))})
    peak_bytes = memory(whole, large, stack).peak_bytes if len(whole) else np.zeros(0)
    most = max(usable_bytes(group.cluster, stack) for group in cluster.groups)
    kept = legal & (peak_bytes <= most)
    ends = np.cumsum([len(grid) for grid in grids])
    rows_of = {shape: np.arange(end - len(grid), end) for shape, grid, end in zip(shapes, grids, ends, strict=True)}
    seconds = model_seconds(whole, job, cluster, stack)
    bounds, skeleton_of, setting_of = [np.zeros(0)], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for place, one in enumerate(some):
        own = rows_of[one.pp, one.dp]
        rows = own[kept[own]]
        number = job.global_batch / whole.micro_batch[rows]
        bounds.append(bound_seconds(one, {name: of[rows] for name, of in seconds.items()}, number, whole.vp[rows]))
        skeleton_of.append(np.full(len(rows), place))
        setting_of.append(rows)
    return Frame(
        some, whole, np.concatenate(skeleton_of), np.concatenate(setting_of), np.concatenate(bounds),
        num_plans=sum(len(rows_of[one.pp, one.dp]) for one in some),
        num_legal=sum(int(legal[rows_of[one.pp, one.dp]].sum()) for one in some),
    )  # fmt: skip


def _settings(tp: int, cp: int, shapes: Sequence[tuple[int, int]], choices: Choices) -> list[PlanGrid]:
    """What the knobs offer for each (pp, dp). Microbatches divide the whole batch: replicas take unequal numbers."""
    model = choices.job.model
    has_experts = isinstance(model, TransformerShape) and model.moe is not None
    made: dict[tuple[int, int], PlanGrid] = {}
    found = []
    for pp, dp in shapes:
        key = (pp, dp if has_experts else min(dp, 2))
        if key not in made:
            made[key] = _offered(tp, cp, *key, choices)
        grid = made[key]
        columns = {field.name: getattr(grid, field.name) for field in fields(PlanGrid)}
        found.append(PlanGrid(**(columns | {"dp": np.full(len(grid), dp, dtype=np.int64)})))
    return found


def _offered(tp: int, cp: int, pp: int, dp: int, choices: Choices) -> PlanGrid:
    job, first = choices.job, choices.cluster.groups[0].cluster
    whole = first.model_copy(update={"num_devices": tp * cp * pp * dp})
    each = job.model_copy(update={"global_batch": job.global_batch * dp})
    held = choices.held | {"tp": tp, "cp": cp, "pp": pp, "dp": dp}
    space = Space(each, whole, held, max_micro_batch=choices.max_micro_batch, exhaustive=choices.exhaustive,
                  schedules=choices.stack.schedules)  # fmt: skip
    return next(space.chunks(max(1, len(space))), PlanGrid.of([]))


def _can_be_placed(grid: PlanGrid) -> NDArray[np.bool_]:
    """What `planner.choose.mixed_rules` asks of plans on several groups, as a mask."""
    plain = (grid.dp_replicate == 1) & (grid.offload == 0) & (grid.order == 0) & (grid.layout == 0)
    return plain & (num_copies(grid.schedule) == 1) & ~runs_messages_by_layer(grid)
