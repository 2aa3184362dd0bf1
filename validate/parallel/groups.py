"""The process groups of a plan: for each axis of the planner, the ranks that share it with this one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from planner.plan import Plan
from validate.measure import Recorder
from validate.parallel.axes import AXES, first_name, ranks_of

all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""Collectives on one tensor, by their names since torch 2.13 or before."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One group of ranks as this rank sees it; its collectives are timed as spans of the breakdown's part."""

    name: str
    ranks: tuple[int, ...]
    index: int
    """This rank's place among them."""
    group: Any
    """Their process group; None for a rank alone."""
    recorder: Recorder

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self.ranks)

    @property
    def part(self) -> str:
        """The part of a breakdown that its messages belong to: tp, cp, ep, dp or pp."""
        return AXES[self.name]

    def shard(self, tensor: Tensor, dim: int) -> Tensor:
        """A copy of this rank's equal part of `tensor` along `dim`: a view would keep the whole alive."""
        return tensor.chunk(self.size, dim)[self.index].clone(memory_format=torch.contiguous_format)

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Combine `tensor` in place over the group."""
        with self.recorder.span(self.part):
            dist.all_reduce(tensor, op=op, group=self.group)
        return tensor

    def all_gather(self, part: Tensor) -> Tensor:
        """`part` of every rank, of at least one dimension -> (size, *part.shape)."""
        parts = part.new_empty(self.size, *part.shape)
        self.gather_into(parts.flatten(0, 1), part.contiguous())
        return parts

    def gather_into(self, whole: Tensor, part: Tensor) -> None:
        """Fill `whole` with the `part` of every rank, one behind the other."""
        with self.recorder.span(self.part):
            all_gather_single(whole, part, group=self.group)

    def reduce_scatter(self, parts: Tensor) -> Tensor:
        """(size, ...) of every rank -> the sum over ranks of this one's part."""
        part = torch.empty_like(parts[0])
        with self.recorder.span(self.part):
            reduce_scatter_single(part, parts.contiguous().flatten(0, 1), group=self.group)
        return part

    def all_to_all(self, tensor: Tensor, received: list[int] | None = None, sent: list[int] | None = None) -> Tensor:
        """Send `sent[i]` rows to rank i and take `received[i]` of its own; equal shares where none are given."""
        rows = len(tensor) if received is None else sum(received)
        output = tensor.new_empty(rows, *tensor.shape[1:])
        with self.recorder.span(self.part):
            dist.all_to_all_single(output, tensor.contiguous(), received, sent, group=self.group)
        return output

    def pass_on(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start to send `tensor` to the next rank of the ring; call the result for what the one before sent."""
        coming = torch.empty_like(tensor)
        ring = self.ranks
        ahead, behind = ring[(self.index + 1) % self.size], ring[self.index - 1]
        with self.recorder.span(self.part):
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, tensor.contiguous(), ahead, self.group),
                    dist.P2POp(dist.irecv, coming, behind, self.group),
                ]
            )

        def arrived() -> Tensor:
            with self.recorder.span(self.part):
                for work in works:
                    work.wait()
            return coming

        return arrived

    def mesh(self, device: torch.device) -> DeviceMesh:
        """The group as a one-dimensional device mesh."""
        return DeviceMesh.from_group(self.group, device.type)


class Groups:
    """Every axis of a plan. All ranks make the same groups in the same order, so make one on each."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self.plan, self.recorder = plan, recorder
        self.padding: Counter[tuple[str, str]] = Counter()
        """Bytes by (axis, collective) that were sent to make shards equal, since it was last cleared."""
        self.rank = dist.get_rank()
        self._made: dict[tuple[tuple[int, ...], ...], dict[int, Any]] = {}
        self._axes = {axis: self._make(axis) for axis in AXES}

    def __getitem__(self, axis: str) -> Axis:
        """The axis of that name."""
        return self._axes[axis]

    def __iter__(self) -> Iterator[Axis]:
        """All axes, those of a single rank too."""
        return iter(self._axes.values())

    @property
    def alone(self) -> Axis:
        """An axis of this rank and no other."""
        return Axis("dp", (self.rank,), 0, None, self.recorder)

    def count_padding(self, axis: str, collective: str, num_bytes: float) -> None:
        """Note that `num_bytes` of a message on `axis` were padding."""
        self.padding[first_name(axis, self.plan), collective] += num_bytes  # type: ignore[assignment]

    @property
    def coordinates(self) -> dict[str, int]:
        """This rank's place on pp, dp, cp and tp."""
        plan, rank = self.plan, self.rank
        return {
            "pp": rank // (plan.tp * plan.cp * plan.dp),
            "dp": rank // (plan.tp * plan.cp) % plan.dp,
            "cp": rank // plan.tp % plan.cp,
            "tp": rank % plan.tp,
        }

    def mesh(self, axes: Iterable[str], device: torch.device) -> DeviceMesh:
        """The device mesh of one or two axes, the outer first; those of a single rank are left out."""
        found = [self[axis] for axis in axes if self[axis].size > 1]
        if len(found) == 1:
            return found[0].mesh(device)
        outer, inner = found
        ranks = torch.tensor([[rank + start - self.rank for rank in inner.ranks] for start in outer.ranks])
        names = tuple(axis.name for axis in found)
        return DeviceMesh.from_group([axis.group for axis in found], device.type, mesh=ranks, mesh_dim_names=names)

    def _make(self, axis: str) -> Axis:
        size, stride = ranks_of(axis, self.plan)
        world = range(self.plan.num_ranks)
        starts = [rank for rank in world if rank // stride % size == 0]
        partition = tuple(tuple(range(start, start + size * stride, stride)) for start in starts)
        if partition not in self._made:
            made = {ranks: dist.new_group(list(ranks)) if size > 1 else None for ranks in partition}
            self._made[partition] = {rank: group for ranks, group in made.items() for rank in ranks}
        mine = next(ranks for ranks in partition if self.rank in ranks)
        return Axis(axis, mine, mine.index(self.rank), self._made[partition][self.rank], self.recorder)
