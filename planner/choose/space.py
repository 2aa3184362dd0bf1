"""The plans worth looking at for a job on a cluster: every split of its devices, with every setting of the knobs.

The space is never held in memory: it is cut into chunks of plans, each made when it is asked for.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.choose.knobs import KNOBS, USUAL_SCHEDULES, Choice, Setting, Split, divisors
from planner.plan import PLAN_FIELDS, Plan, PlanGrid
from planner.work.layers import num_blocks
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.workload import TrainingJob

MAX_MICRO_BATCH = 16
MIN_TOKENS_PER_CONTEXT_RANK = 4096
"""Context parallelism is searched only while every rank keeps this many tokens of a sequence."""
FEWEST_TOKENS_PER_CONTEXT_RANK = 256
"""The same for an exhaustive search."""
_DEGREES = ("tp", "pp", "cp", "dp")


def splits(job: TrainingJob, cluster: Cluster, *, exhaustive: bool = False) -> Iterator[Split]:
    """Every split of the devices whose degrees the model can use at all, shallow pipelines and small tp first."""
    devices, model = cluster.num_devices, job.model
    is_transformer = isinstance(model, TransformerShape)
    tokens = FEWEST_TOKENS_PER_CONTEXT_RANK if exhaustive else MIN_TOKENS_PER_CONTEXT_RANK
    most_tp = model.num_heads if isinstance(model, TransformerShape) else 1
    most_cp = max(1, job.sequence_length // tokens) if is_transformer else 1
    for pp in (degree for degree in divisors(devices) if degree <= num_blocks(model)):
        for tp in (degree for degree in divisors(devices // pp) if degree <= most_tp):
            for cp in (degree for degree in divisors(devices // pp // tp) if degree <= most_cp):
                yield Split(tp, pp, cp, devices // tp // pp // cp)


@dataclass(frozen=True, slots=True)
class _Block:
    """All plans of one split: the product of what each knob offers."""

    split: Split
    tables: tuple[NDArray[np.int64], ...]
    """By knob: one row for each choice, one column for each of its fields."""

    def __len__(self) -> int:
        return math.prod(len(table) for table in self.tables)

    def columns(self, start: int, stop: int) -> dict[str, NDArray[np.int64]]:
        """Plans `start` to `stop` in lexicographic order of the knobs, by field."""
        picked = np.unravel_index(np.arange(start, stop), [len(table) for table in self.tables])
        found = {axis: np.full(stop - start, getattr(self.split, axis), dtype=np.int64) for axis in _DEGREES}
        for one, table, rows in zip(KNOBS, self.tables, picked, strict=True):
            found |= {field: table[rows, place] for place, field in enumerate(one.fields)}
        return found


class Space:
    """The plans of a job on a cluster before any rule; `fixed` holds plan fields (as grid codes) to a value.

    `schedules` are those the software can run; others are offered where `fixed` or `exhaustive` asks for them.

    Its plans have an order, the simpler of two plans first, in which `chunks` yields them. A fixed value that no
    split offers leaves the space empty; `planner.choose.search` says so.
    """

    def __init__(
        self,
        job: TrainingJob,
        cluster: Cluster,
        fixed: Mapping[str, int] | None = None,
        *,
        max_micro_batch: int = MAX_MICRO_BATCH,
        exhaustive: bool = False,
        schedules: tuple[str, ...] = USUAL_SCHEDULES,
    ) -> None:
        held = dict(fixed or {})
        self._constants = {
            name: held[name] for name in PLAN_FIELDS if name in held and name not in (*_DEGREES, *_knob_fields())
        }
        self._blocks = [
            _block(Setting(job, cluster, split, exhaustive, max_micro_batch, schedules), held)
            for split in splits(job, cluster, exhaustive=exhaustive)
            if all(held.get(axis, getattr(split, axis)) == getattr(split, axis) for axis in _DEGREES)
        ]

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def num_splits(self) -> int:
        """Splits of the devices into tp, pp, cp and dp."""
        return len(self._blocks)

    def chunks(self, size: int) -> Iterator[PlanGrid]:
        """The plans in their order, at most `size` at a time."""
        pending: list[dict[str, NDArray[np.int64]]] = []
        waiting = 0
        for block in self._blocks:
            start = 0
            while start < len(block):
                stop = min(len(block), start + size - waiting)
                pending.append(block.columns(start, stop))
                waiting += stop - start
                start = stop
                if waiting == size:
                    yield self._grid(pending)
                    pending, waiting = [], 0
        if pending:
            yield self._grid(pending)

    def _grid(self, parts: list[dict[str, NDArray[np.int64]]]) -> PlanGrid:
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        size = len(columns["tp"])
        default = PlanGrid.of([Plan()])
        for name in PLAN_FIELDS:
            if name not in columns:
                value = self._constants.get(name, getattr(default, name)[0])
                columns[name] = np.full(size, value, dtype=np.int64)
        return PlanGrid(**columns)


def _knob_fields() -> set[str]:
    return {field for one in KNOBS for field in one.fields}


def _block(setting: Setting, fixed: Mapping[str, int]) -> _Block:
    tables: list[list[Choice]] = [one.table(setting, fixed) for one in KNOBS]
    return _Block(setting.split, tuple(np.array(table, dtype=np.int64) for table in tables))


def plan_space(
    job: TrainingJob, cluster: Cluster, fixed: Mapping[str, int] | None = None, *, exhaustive: bool = False
) -> PlanGrid:
    """The whole space at once, where it is known to be small."""
    space = Space(job, cluster, fixed, exhaustive=exhaustive)
    return next(space.chunks(max(1, len(space))), PlanGrid.of([]))
