"""The plans worth looking at for a job on a cluster: every split of its devices, with every setting of the knobs.

The space is never held in memory: it is cut into chunks of plans, each made when it is asked for.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.choose.knobs import KNOBS, USUAL_SCHEDULES, Knob, Setting, Split, divisors
from planner.order import USUAL_ORDER
from planner.plan import PLAN_FIELDS, Plan, PlanGrid
from planner.work.layers import most_chunks
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.workload import TrainingJob

MIN_TOKENS_PER_CONTEXT_RANK = 4096
"""Context parallelism is searched only while every rank keeps this many tokens of a sequence."""
FEWEST_TOKENS_PER_CONTEXT_RANK = 256
"""The same for an exhaustive search."""
DEGREES = ("tp", "pp", "cp", "dp")
"""Plan fields that a split sets."""


def splits(job: TrainingJob, cluster: Cluster, *, exhaustive: bool = False) -> Iterator[Split]:
    """Every split of the devices whose degrees the model can use at all, shallow pipelines and small tp first."""
    devices, model = cluster.num_devices, job.model
    is_transformer = isinstance(model, TransformerShape)
    tokens = FEWEST_TOKENS_PER_CONTEXT_RANK if exhaustive else MIN_TOKENS_PER_CONTEXT_RANK
    most_tp = model.num_heads if isinstance(model, TransformerShape) else 1
    most_cp = max(1, job.sequence_length // tokens) if is_transformer else 1
    for pp in (degree for degree in divisors(devices) if degree <= most_chunks(model)):
        for tp in (degree for degree in divisors(devices // pp) if degree <= most_tp):
            for cp in (degree for degree in divisors(devices // pp // tp) if degree <= most_cp):
                yield Split(tp, pp, cp, devices // tp // pp // cp)


@dataclass(frozen=True, slots=True)
class _Block:
    """All plans of one split under one choice of the outer knobs: the product of what the inner knobs offer."""

    constants: Mapping[str, int]
    """Degrees and outer knobs, by field."""
    tables: tuple[NDArray[np.int64], ...]
    """By inner knob: one row for each choice, one column for each of its fields."""

    def __len__(self) -> int:
        return math.prod(len(table) for table in self.tables)

    def fill(self, columns: Mapping[str, NDArray[np.int64]], at: int, plans: NDArray[np.int64]) -> None:
        """Write the given plans, numbered in lexicographic order of the knobs, into `columns` from row `at` on."""
        rows = slice(at, at + len(plans))
        picked = np.unravel_index(plans, [len(table) for table in self.tables])
        for name, value in self.constants.items():
            columns[name][rows] = value
        for one, table, choice in zip(_inner_knobs(), self.tables, picked, strict=True):
            for place, name in enumerate(one.fields):
                np.take(table[:, place], choice, out=columns[name][rows], mode="clip")


class Space:
    """The plans of a job on a cluster before any rule; `fixed` holds plan fields (as grid codes) to a value.

    `schedules` and `orders` are those the software can run; others are offered where `fixed` or `exhaustive` asks for
    them.
    `layout_of` gives the code of the best layout for a number of chunks, where stages need not be even.

    Its plans have an order, the simpler of two plans first, in which `chunks` yields them. A fixed value that no
    split offers leaves the space empty; `planner.choose.search` says so.
    """

    def __init__(
        self,
        job: TrainingJob,
        cluster: Cluster,
        fixed: Mapping[str, int] | None = None,
        *,
        max_micro_batch: int | None = None,
        exhaustive: bool = False,
        schedules: tuple[str, ...] = USUAL_SCHEDULES,
        orders: tuple[str, ...] = (USUAL_ORDER,),
        layout_of: Callable[[int], int] | None = None,
    ) -> None:
        held = dict(fixed or {})
        default = PlanGrid.of([Plan()])
        self._defaults = {name: held.get(name, int(getattr(default, name)[0])) for name in PLAN_FIELDS}
        settings = [
            Setting(job, cluster, split, exhaustive, max_micro_batch, schedules, layout_of, orders)
            for split in splits(job, cluster, exhaustive=exhaustive)
            if all(held.get(axis, getattr(split, axis)) == getattr(split, axis) for axis in DEGREES)
        ]
        self.num_splits = len(settings)
        self._blocks = [block for setting in settings for block in _blocks(setting, held)]

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def chunks(self, size: int) -> Iterator[PlanGrid]:
        """The plans in their order, `size` at a time and the rest at the end."""
        left = len(self)
        columns, filled = self._columns(min(size, left)), 0
        for block in self._blocks:
            start = 0
            while start < len(block):
                stop = min(len(block), start + len(columns["tp"]) - filled)
                block.fill(columns, filled, np.arange(start, stop))
                filled += stop - start
                start = stop
                if filled == len(columns["tp"]):
                    left -= filled
                    yield PlanGrid(**columns)
                    columns, filled = self._columns(min(size, left)), 0

    def take(self, rows: NDArray[np.int64]) -> PlanGrid:
        """The plans at some places of the order, ascending."""
        ends = np.cumsum([len(block) for block in self._blocks])
        columns, filled = self._columns(len(rows)), 0
        for block, end in zip(self._blocks, ends, strict=True):
            inside = rows[(rows >= end - len(block)) & (rows < end)] - (end - len(block))
            block.fill(columns, filled, inside)
            filled += len(inside)
        return PlanGrid(**columns)

    def _columns(self, size: int) -> dict[str, NDArray[np.int64]]:
        return {name: np.full(size, value, dtype=np.int64) for name, value in self._defaults.items()}


def _inner_knobs() -> list[Knob]:
    return [one for one in KNOBS if not one.is_outer]


def _blocks(setting: Setting, fixed: Mapping[str, int]) -> Iterator[_Block]:
    """The blocks of one split, one for each combination of the outer knobs."""
    outer = [one for one in KNOBS if one.is_outer]
    degrees = {name: getattr(setting.split, name) for name in DEGREES}
    for choices in itertools.product(*(one.table(setting, fixed) for one in outer)):
        chosen = {
            name: value
            for one, choice in zip(outer, choices, strict=True)
            for name, value in zip(one.fields, choice, strict=True)
        }
        here = replace(setting, chosen=chosen)
        tables = [np.array(one.table(here, fixed), dtype=np.int64) for one in _inner_knobs()]
        yield _Block(degrees | chosen, tuple(tables))
