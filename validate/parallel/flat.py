"""Parameters and gradients of a layer as flat buffers, cut into equal shards: ZeRO without a wrapper around modules.

[Rajbhandari 2020, ZeRO, arXiv:1910.02054, section 5]
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from validate.parallel.groups import Axis, Groups


class Bucket:
    """Parameters that are reduced, updated and gathered together, padded to equal shards."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        partial: Collection[int],
        groups: Groups,
        axes: tuple[Axis, Axis],
    ) -> None:
        """`partial`: ids of parameters whose gradients are partial over tp; `axes`: shards, replicas of shards."""
        plan = groups.plan
        self.parameters, self.partial = parameters, [p for p in parameters if id(p) in partial]
        self.shard_axis, self.replica_axis = axes
        self.tensor_axis = groups["tp"]
        self.is_sharded = self.shard_axis.size > 1
        self.reduces_each = plan.zero_stage == 2 and plan.pp == 1 and self.is_sharded
        self.divisor = plan.dp * plan.cp
        self.values = self._flatten()
        self.groups, self.num_padded = groups, len(self.values) - sum(p.numel() for p in parameters)
        size = 0 if self.reduces_each else len(self.values)
        self.gradients = torch.zeros(size, dtype=torch.float32, device=self.values.device)
        self.master = nn.Parameter(self._mine(self.values).detach().float())
        self.master.grad = torch.zeros_like(self.master) if self.reduces_each else self._mine(self.gradients)
        self.num_pending = len(parameters)
        for parameter in parameters:
            if not self.reduces_each and parameter.dtype == torch.float32:
                self.collect(parameter)
            else:
                parameter.register_post_accumulate_grad_hook(self._take)

    def _flatten(self) -> Tensor:
        """Move the parameters into one buffer."""
        sizes = [parameter.numel() for parameter in self.parameters]
        self.starts = {id(parameter): sum(sizes[:index]) for index, parameter in enumerate(self.parameters)}
        total = -(-sum(sizes) // self.shard_axis.size) * self.shard_axis.size
        first = self.parameters[0]
        values = torch.zeros(total, dtype=first.dtype, device=first.device)
        for parameter in self.parameters:
            view = self._view(values, parameter)
            view.copy_(parameter.detach())
            parameter.data = view
        return values

    def _view(self, buffer: Tensor, parameter: Tensor) -> Tensor:
        """Where `parameter` lies in a whole buffer."""
        start = self.starts[id(parameter)]
        return buffer[start : start + parameter.numel()].view_as(parameter)

    def _mine(self, buffer: Tensor) -> Tensor:
        """This rank's shard of a whole buffer."""
        return buffer.chunk(self.shard_axis.size)[self.shard_axis.index]

    def _take(self, parameter: Tensor) -> None:
        """A gradient came: add it in fp32, or reduce the bucket once all of its gradients are there."""
        if not self.reduces_each:
            self.collect(parameter)
            return
        self.num_pending -= 1
        if self.num_pending == 0:
            self.num_pending = len(self.parameters)
            gradients = self.values.new_zeros(len(self.values), dtype=torch.float32)
            for each in self.parameters:
                if each.grad is not None:
                    self._view(gradients, each).copy_(each.grad)
                    each.grad = None
            self._scatter(gradients)

    def collect(self, parameter: Tensor) -> None:
        """Add a gradient that does not lie in the buffer to it, and let fp32 ones lie there (again)."""
        place = self._view(self.gradients, parameter)
        if parameter.grad is not None and parameter.grad.data_ptr() != place.data_ptr():
            place.add_(parameter.grad)
        parameter.grad = place if parameter.dtype == torch.float32 else None

    def reduce(self) -> None:
        """Make the gradients of this rank's shard those of the whole batch."""
        if self.reduces_each:
            return
        for parameter in self.parameters:
            self.collect(parameter)
        if self.is_sharded:
            self._scatter(self.gradients)
        else:
            self._sum_partial(self.gradients)
            self.gradients /= self.divisor
            if self.replica_axis.size > 1:
                self.replica_axis.all_reduce(self.gradients)

    def _scatter(self, gradients: Tensor) -> None:
        """Sum a whole gradient buffer over ranks; add this rank's shard to what came before, if anything can have."""
        self._sum_partial(gradients)
        gradients /= self.divisor
        self._count_padding(self.shard_axis, "reduce_scatter", self.num_padded * gradients.element_size())
        shard = self.shard_axis.reduce_scatter(gradients.unflatten(0, (self.shard_axis.size, -1)))
        if self.replica_axis.size > 1:
            padded = self.num_padded * shard.element_size() / self.shard_axis.size
            self._count_padding(self.replica_axis, "all_reduce", padded)
            self.replica_axis.all_reduce(shard)
        assert self.master.grad is not None
        if self.reduces_each:
            self.master.grad += shard
        else:
            self.master.grad.copy_(shard)

    def _count_padding(self, axis: Axis, collective: str, num_bytes: float) -> None:
        if self.num_padded:
            self.groups.count_padding(axis.name, collective, num_bytes)

    def _sum_partial(self, gradients: Tensor) -> None:
        """Sum over tp what sequence parallelism left partial."""
        sum_over([self._view(gradients, parameter) for parameter in self.partial], self.tensor_axis)

    def keep_update(self) -> None:
        """Write the updated shard back in the parameters' own format, and forget the gradients."""
        mine = self._mine(self.values)
        if mine.data_ptr() != self.master.data_ptr():
            mine.copy_(self.master.detach())
        self.gradients.zero_()
        if self.reduces_each:
            assert self.master.grad is not None
            self.master.grad.zero_()

    def gather(self) -> None:
        """Collect the parameters that other ranks updated."""
        if self.is_sharded:
            self._count_padding(self.shard_axis, "all_gather", self.num_padded * self.values.element_size())
            self.shard_axis.gather_into(self.values, self._mine(self.values))


def sum_over(gradients: Sequence[Tensor], axis: Axis) -> None:
    """Sum gradients over `axis`, in place, as one message."""
    if not gradients:
        return
    flat = axis.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))
