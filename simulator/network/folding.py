"""Which devices each simulated rank stands for.

Devices of a stage that work in lock step (a tp, cp and ep group and what it is tied to: a replica) do the same at the
same time, and so do replicas that are equally fast. Folded, one simulated rank stands for all devices of a stage in
equal replicas; unfolded, every device is simulated by itself. Groups that talk across simulated ranks start together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from planner.cost.groups import group_of, stage_stride
from planner.plan import Plan

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_LOCK_STEP = ("tp", "cp_a2a", "cp_ring", "etp", "ep")


@dataclass(frozen=True, slots=True)
class Folding:
    """The simulated ranks of every stage: `lanes` of them, the same ones in each."""

    plan: Plan
    devices: Ints
    """The device of each rank of a stage, (stages, ranks of a stage)."""
    lane_of: Ints
    """The simulated rank that stands for each rank of a stage, (ranks of a stage,)."""
    slowness: Floats
    """Time over usual time of the slowest device behind each simulated rank, (stages, lanes)."""

    @property
    def num_lanes(self) -> int:
        """Simulated ranks of a stage."""
        return int(self.lane_of.max()) + 1

    def rows(self, lane: int) -> Ints:
        """The ranks of a stage that `lane` stands for."""
        return np.flatnonzero(self.lane_of == lane)


def fold(plan: Plan, slowness: Floats, marks: Floats, *, unfolds: bool) -> Folding:
    """The simulated ranks of `plan` over devices with a `slowness` each, (devices,).

    `marks` (devices,) tell apart devices that are equally fast but reached over other links.
    """
    devices = stage_devices(plan)
    size = devices.shape[1]
    if unfolds:
        return Folding(plan, devices, np.arange(size), slowness[devices])
    replica = joined_ranks(plan, _LOCK_STEP, np.arange(size))
    worst = np.stack([_by_replica(np.maximum, values[devices], replica) for values in (slowness, marks)])
    _, kind = np.unique(worst.reshape(-1, worst.shape[-1]), axis=1, return_inverse=True)
    _, first, lane = np.unique(kind.ravel(), return_index=True, return_inverse=True)
    return Folding(plan, devices, lane.ravel()[replica], worst[0][:, first])


def stage_devices(plan: Plan) -> Ints:
    """The device of each rank of every stage, (stages, ranks of a stage)."""
    block, size = int(stage_stride(plan)), plan.tp * plan.cp * plan.dp
    rank = np.arange(size)
    stage = np.arange(plan.pp)[:, None]
    return rank // block * block * plan.pp + stage * block + rank % block


def group_numbers(plan: Plan, axis: str) -> tuple[Ints, int]:
    """(the group on `axis` of each rank of a stage, the members of a group)."""
    group = group_of(axis, plan)
    size, stride = int(group.size), int(group.stride)
    rank = np.arange(plan.tp * plan.cp * plan.dp)
    return rank // (size * stride) * stride + rank % stride, size


def joined_ranks(plan: Plan, axes: Sequence[str], part_of: Ints) -> Ints:
    """The number, from 0, of what each rank of a stage belongs to when groups on `axes` join the parts they touch.

    `part_of`: the part of each rank before.
    """
    num_parts = int(part_of.max()) + 1
    rows, columns, offset = [], [], num_parts
    for axis in axes:
        group, size = group_numbers(plan, axis)
        if size > 1:
            rows.append(part_of)
            columns.append(group + offset)
            offset += int(group.max()) + 1
    if not rows:
        return part_of
    row, column = np.concatenate(rows), np.concatenate(columns)
    edges = sparse.coo_array((np.ones(len(row)), (row, column)), shape=(offset, offset))
    labels = connected_components(edges, directed=False)[1][:num_parts]
    _, compact = np.unique(labels, return_inverse=True)
    return compact.ravel()[part_of]


def _by_replica(worst: np.ufunc, values: Floats, replica: Ints) -> Floats:
    """The largest value in each replica at each stage, (stages, replicas)."""
    found = np.full((len(values), int(replica.max()) + 1), -np.inf)
    for stage, row in enumerate(values):
        worst.at(found[stage], replica, row)
    return found
