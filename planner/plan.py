"""A plan says how the ranks of a cluster share one training step; a grid is many plans as columns.

`Plan` and `PlanGrid` share field names, so that a formula written for one serves the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from planner.layout import EVEN, Layout, layout_code, layout_of, written
from planner.offload import Offload
from planner.order import ORDER_NAMES, USUAL_ORDER, OrderName
from planner.placement import ANYWHERE, Placement, placement_code, placement_of
from planner.placement import written as written_placement
from planner.recompute import Module, Recompute

Ints = NDArray[np.int64]
AXES = ("tp", "cp", "ep", "dp", "pp")
"""Parallel axes."""


ScheduleName = Literal[
    "gpipe", "1f1b", "interleaved", "breadth-first", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipe-v"
]
SCHEDULE_NAMES: tuple[ScheduleName, ...] = get_args(ScheduleName)
"""Schedules, in the order of their codes in `PlanGrid.schedule`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One split of one training step. The number of ranks is dp * tp * pp * cp."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    """Expert-parallel degree; the etp * ep * edp ranks of the expert mesh are the tp * cp * dp of the dense one."""
    etp: int = 1
    """Expert tensor parallelism: ranks that share the width of every expert."""
    cp_a2a: int = 1
    """Ranks of a cp group that trade heads for tokens by all-to-all (Ulysses); the others pass keys around a ring."""
    cp_gather: bool = False
    """Keys and values are gathered before the attention core, in place of passing around a ring beside it."""
    vp: int = 1
    """Model chunks (virtual stages) per rank; how many is up to the schedule, 1 for most."""
    layout: Layout = EVEN
    """Layers of each chunk; empty: equal shares, of the layers or of the layers with embedding and head."""
    micro_batch: int = 1
    """Sequences per microbatch on one data-parallel rank."""
    schedule: ScheduleName = "1f1b"
    recompute: Recompute = Recompute.NONE
    recompute_modules: Module = Module.CORE_ATTN
    """Of selective recomputation: the modules that run again."""
    recompute_layers: int = 0
    """Of full recomputation: layers of each chunk that run again (Megatron's block method); 0: all of them."""
    offload: Offload = Offload.NOTHING
    """What lives in the memory of the host."""
    sequence_parallel: bool = False
    """Megatron sequence parallelism on the tp axis."""
    zero_stage: int = 0
    """0: replicated; 1: optimizer states sharded over dp (and cp); 2: gradients too; 3: parameters too (FSDP)."""
    reshard_after_forward: bool = True
    """Of zero_stage 3: parameters gathered for a forward pass are freed after it and gathered again for the backward
    pass. False keeps them (FSDP2's switch of this name; FSDP's SHARD_GRAD_OP)."""
    dp_replicate: int = 1
    """Groups of ranks that each hold all shards (HSDP): sharding runs over dp * cp / dp_replicate neighbours."""
    order: OrderName = USUAL_ORDER
    """Axes in the order in which ranks are numbered, the innermost first."""
    placement: Placement = ANYWHERE
    """On a cluster of several groups of nodes: where each stage lies, and what each replica runs."""

    @property
    def num_recomputed_layers(self) -> int:
        """Layers of the whole model that full recomputation is limited to; 0: no limit."""
        return self.recompute_layers * self.pp * self.vp

    @property
    def num_ranks(self) -> int:
        """Ranks the plan occupies."""
        return self.dp * self.tp * self.pp * self.cp

    def num_microbatches(self, global_batch: int) -> int:
        """Microbatches each data-parallel rank runs per step (floor; legality asks for no remainder)."""
        return global_batch // (self.dp * self.micro_batch)

    def __str__(self) -> str:
        parts = [f"{axis}{getattr(self, axis)}" for axis in ("dp", "tp", "pp", "cp", "ep", "vp")
                 if getattr(self, axis) > 1]  # fmt: skip
        parts.append(f"mb{self.micro_batch}")
        if self.pp > 1:
            parts.append(self.schedule)
        if self.layout:
            parts.append(written(self.layout))
        parts += [f"{name}{getattr(self, name)}" for name in ("etp", "cp_a2a") if getattr(self, name) > 1]
        if self.cp_gather:
            parts.append("cp_gather")
        if self.sequence_parallel:
            parts.append("sp")
        if self.zero_stage:
            parts.append(f"zero{self.zero_stage}")
        if not self.reshard_after_forward:
            parts.append("keep-gathered")
        if self.dp_replicate > 1:
            parts.append(f"replicate{self.dp_replicate}")
        if self.recompute:
            parts.append(f"recompute={self.recompute.name.lower()}")
        if self.recompute_modules != Module.CORE_ATTN:
            parts.append(f"of={self.recompute_modules.words}")
        if self.recompute_layers:
            parts.append(f"of={self.recompute_layers}layers")
        if self.offload:
            parts.append(f"offload={self.offload.words}")
        if self.order != USUAL_ORDER:
            parts.append(f"order={self.order}")
        if self.placement:
            parts.append(f"placement={written_placement(self.placement)!r}")
        return " ".join(parts)


PLAN_FIELDS = tuple(field.name for field in fields(Plan))


def as_written(plan: Plan) -> dict[str, Any]:
    """The fields of a plan as files and JSON hold them: names in place of enumerations."""
    words = {"recompute": plan.recompute.name.lower(), "recompute_modules": plan.recompute_modules.words}
    words["offload"] = plan.offload.words
    words["layout"], words["placement"] = written(plan.layout), written_placement(plan.placement)
    return {name: getattr(plan, name) for name in PLAN_FIELDS} | words


@dataclass(frozen=True, slots=True)
class PlanGrid:
    """Many plans as equally long integer columns; `schedule` and `order` hold indices of names, `layout` and
    `placement` codes."""

    dp: Ints
    tp: Ints
    pp: Ints
    cp: Ints
    ep: Ints
    etp: Ints
    cp_a2a: Ints
    cp_gather: Ints
    vp: Ints
    layout: Ints
    micro_batch: Ints
    schedule: Ints
    recompute: Ints
    recompute_modules: Ints
    recompute_layers: Ints
    offload: Ints
    sequence_parallel: Ints
    zero_stage: Ints
    reshard_after_forward: Ints
    dp_replicate: Ints
    order: Ints
    placement: Ints

    @classmethod
    def of(cls, plans: Iterable[Plan]) -> "PlanGrid":
        """The grid of `plans`, in their order."""
        rows = [[_code(name, getattr(plan, name)) for name in PLAN_FIELDS] for plan in plans]
        table = np.array(rows, dtype=np.int64).reshape(len(rows), len(PLAN_FIELDS))
        return cls(**dict(zip(PLAN_FIELDS, np.ascontiguousarray(table.T), strict=True)))

    @classmethod
    def product(cls, **choices: Sequence[Any]) -> "PlanGrid":
        """The Cartesian product of the given choices by field; a field left out keeps `Plan`'s default."""
        default = Plan()
        columns = [
            np.array([_code(name, value) for value in choices.get(name, (getattr(default, name),))])
            for name in PLAN_FIELDS
        ]
        unknown = set(choices) - set(PLAN_FIELDS)
        assert not unknown, f"no such plan fields: {sorted(unknown)}"
        mesh = np.meshgrid(*columns, indexing="ij", copy=False)
        return cls(**{name: np.ravel(column).astype(np.int64)
                      for name, column in zip(PLAN_FIELDS, mesh, strict=True)})  # fmt: skip

    def __len__(self) -> int:
        return len(self.dp)

    def take(self, rows: NDArray[Any]) -> "PlanGrid":
        """The rows selected by an index or a mask."""
        return PlanGrid(**{name: getattr(self, name)[rows] for name in PLAN_FIELDS})

    def plan(self, row: int) -> Plan:
        """One row as a `Plan`."""
        values: dict[str, Any] = {name: int(getattr(self, name)[row]) for name in PLAN_FIELDS}
        values["schedule"], values["order"] = SCHEDULE_NAMES[values["schedule"]], ORDER_NAMES[values["order"]]
        values["layout"], values["placement"] = layout_of(values["layout"]), placement_of(values["placement"])
        values["recompute"] = Recompute(values["recompute"])
        values["recompute_modules"] = Module(values["recompute_modules"])
        values["offload"] = Offload(values["offload"])
        for name in ("sequence_parallel", "cp_gather", "reshard_after_forward"):
            values[name] = bool(values[name])
        return Plan(**values)

    def __iter__(self) -> Iterator[Plan]:
        return (self.plan(row) for row in range(len(self)))

    @property
    def num_recomputed_layers(self) -> Ints:
        """Layers of the whole model that full recomputation is limited to; 0: no limit."""
        return self.recompute_layers * self.pp * self.vp

    @property
    def numbering(self) -> Ints:
        """A code of what the order makes of the distances between ranks: 0 for the usual one."""
        if not self.order.any():
            return self.order
        degrees = self.pp + (int(self.pp.max()) + 1) * self.dp
        return np.where(self.order > 0, self.order + len(ORDER_NAMES) * degrees, 0)

    @property
    def num_ranks(self) -> Ints:
        """Ranks each plan occupies."""
        return self.dp * self.tp * self.pp * self.cp

    def num_microbatches(self, global_batch: int) -> Ints:
        """Microbatches each data-parallel rank runs per step (floor)."""
        return global_batch // (self.dp * self.micro_batch)


def _code(name: str, value: Any) -> int:
    if name == "layout":
        return layout_code(value)
    if name == "placement":
        return placement_code(value)
    if name == "order":
        return ORDER_NAMES.index(value)
    return SCHEDULE_NAMES.index(value) if name == "schedule" else int(value)
