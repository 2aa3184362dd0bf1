"""One rank of a plan's world, pretended: torch's fake process group, with a mesh and a name for every parallel axis."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from planner.plan import Plan
from validate.measure import Recorder
from validate.parallel.groups import Axis

_DENSE = ("pp", "dp_replicate", "dp_shard", "tp")
_CONTEXT = ("pp", "dp", "cp_ring", "cp_a2a", "tp")
_EXPERT = ("pp", "edp_replicate", "edp_shard", "ep", "etp")
_AXES = {
    "tp": "tp", "cp_ring": "cp_ring", "cp_a2a": "cp_a2a", "pp": "pp", "ep": "ep", "etp": "etp", "dp_all": "dp",
    "dp_shard": "dp-shard", "dp_replicate": "dp-replicate", "edp_all": "edp", "edp_shard": "edp-shard",
    "edp_replicate": "dp-replicate",
}  # fmt: skip
"""Mesh dimension -> axis of `planner.work.ops.Message`."""


_SILENT = Recorder(torch.device("cpu"))
"""Nobody asks how long pretended messages take."""


@dataclass(frozen=True, slots=True)
class World:
    """The meshes of a plan as one rank sees them. Ranks are numbered as the planner does (`planner.plan.AXES`)."""

    plan: Plan
    meshes: dict[str, DeviceMesh]
    """By dimension; "dp_all" and "edp_all" are flattened ones, "dense_shards" and "expert_shards" what FSDP takes."""
    axis_of: dict[str, str]
    """Name of a process group -> axis."""

    def axis(self, dimension: str) -> Axis:
        """A dimension as the executor's own operators take it; a rank alone where the plan does not have it."""
        if dimension not in self.meshes:
            return Axis(dimension, (0,), 0, None, _SILENT)
        mesh = self.meshes[dimension]
        ranks = tuple(dist.get_process_group_ranks(mesh.get_group()))
        return Axis(dimension, ranks, mesh.get_local_rank(), mesh.get_group(), _SILENT)

    def group(self, dimension: str) -> dist.ProcessGroup:
        """The process group of a mesh dimension."""
        return self.meshes[dimension].get_group()


@contextmanager
def pretended(plan: Plan, rank: int, *, has_experts: bool) -> Iterator[World]:
    """Be `rank` of the plan's ranks while the context lasts: collectives return at once and carry nothing.

    The world has one rank more than the plan, so that no axis spans it: torch would let such axes share a group.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.num_ranks + 1)
    try:
        yield _world(plan, has_experts)
    finally:
        dist.destroy_process_group()


def _world(plan: Plan, has_experts: bool) -> World:
    """Three numberings of the same ranks: dense parameters, the tokens of a sequence, experts."""
    replicas = plan.dp_replicate
    shards = plan.dp * plan.cp // replicas
    dense = _mesh((plan.pp, replicas, shards, plan.tp), _DENSE)
    meshes = {name: dense[name] for name in _DENSE}
    meshes["dp_all"] = dense["dp_replicate", "dp_shard"]._flatten("dp_all")
    meshes["dense_shards"] = dense["dp_replicate", "dp_shard"] if replicas > 1 else meshes["dp_shard"]
    if plan.cp > 1:
        sizes = (plan.pp, plan.dp, plan.cp // plan.cp_a2a, plan.cp_a2a, plan.tp)
        context = _mesh(sizes, _CONTEXT)
        meshes |= {name: context[name] for name in ("cp_ring", "cp_a2a")}
    if has_experts:
        shards = plan.tp * plan.cp * plan.dp // replicas // (plan.etp * plan.ep)
        expert = _mesh((plan.pp, replicas, shards, plan.ep, plan.etp), _EXPERT)
        meshes |= {name: expert[name] for name in _EXPERT if name != "pp"}
        meshes["edp_all"] = expert["edp_replicate", "edp_shard"]._flatten("edp_all")
        meshes["expert_shards"] = expert["edp_replicate", "edp_shard"] if replicas > 1 else meshes["edp_shard"]
    names = {meshes[dimension].get_group().group_name: axis for dimension, axis in _AXES.items() if dimension in meshes}
    return World(plan, meshes, names)


def _mesh(sizes: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    return DeviceMesh("cpu", torch.arange(math.prod(sizes)).view(sizes), mesh_dim_names=names)
