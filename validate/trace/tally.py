"""What a rank computes and sends, counted operation by operation as torch dispatches it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import bmm_flop, mm_flop

from validate.parallel.traffic import MESSAGES, Arguments, axis_among, bytes_of
from validate.trace.figures import ATTENTION, EXPERTS, FORWARD, MATRIX, Counts, Sent

MASKED_SHARE = 0.5
"""Share of the pairs of a causal square that attention kernels run."""
BACKWARD_PASSES = 2.5
"""Products of a fused attention backward over its forward: five for two (Dao 2022, arXiv:2205.14135)."""


class Tally(TorchDispatchMode):
    """Counts FLOPs by operation and phase, and messages by axis; enter it inside the fake tensor mode.

    DTensors are passed on to torch, so that what is counted is local to the rank; a first step must have filled
    torch's caches of sharding rules, which it makes by running operations on whole tensors.
    """

    def __init__(self, axis_of: dict[str, str], where: Callable[[], str]) -> None:
        super().__init__()
        self.axis_of, self.where, self.counts, self.phase = axis_of, where, Counts(), FORWARD

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count what runs as part of `phase`."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` and count it."""
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in _FLOPS:
            operation, count = _FLOPS[packet]
            if packet is aten.bmm and args[0].shape[0] == 1:
                operation = MATRIX  # a rank with a single expert runs plain products
            step = (operation, self.phase)
            self.counts.flops[step] = self.counts.flops.get(step, 0.0) + float(count(args, kwargs or {}))
        elif packet in _MESSAGES:
            collective, size = _MESSAGES[packet]
            key = (axis_among(args, self.axis_of), collective, self.where(), _elements(args[0]))
            sent = self.counts.sent.setdefault(key, Sent())
            sent.num_messages += 1
            sent.num_bytes += size(args)
        return out


def _product(args: Arguments, _: dict[str, Any]) -> float:
    return mm_flop(args[-2].shape, args[-1].shape)


def _first_product(args: Arguments, _: dict[str, Any]) -> float:
    return mm_flop(args[0].shape, args[1].shape)


def _batched(args: Arguments, _: dict[str, Any]) -> float:
    return bmm_flop(args[0].shape, args[1].shape)


def _attention(passes: float, first: int, causal_at: int) -> Callable[[Arguments, dict[str, Any]], float]:
    """FLOPs of a fused attention kernel whose query is argument `first` and causal flag argument `causal_at`."""

    def flops(args: Arguments, kwargs: dict[str, Any]) -> float:
        query, key, value = args[first : first + 3]
        causal = kwargs.get("is_causal", args[causal_at] if len(args) > causal_at else False)
        pairs = query.shape[-2] * key.shape[-2] * (MASKED_SHARE if causal else 1.0)
        return 2.0 * passes * query.shape[0] * query.shape[1] * pairs * (key.shape[-1] + value.shape[-1])

    return flops


aten, functional = torch.ops.aten, torch.ops._c10d_functional
_FLOPS: dict[Any, tuple[str, Callable[[Arguments, dict[str, Any]], float]]] = {
    aten.mm: (MATRIX, _first_product),
    aten.addmm: (MATRIX, _product),
    aten.bmm: (EXPERTS, _batched),
    aten._scaled_dot_product_flash_attention_for_cpu: (ATTENTION, _attention(1.0, 0, 4)),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (ATTENTION, _attention(BACKWARD_PASSES, 1, 7)),
}


def _elements(value: Any) -> int:
    tensors = value if isinstance(value, list | tuple) else [value]
    return sum(tensor.numel() for tensor in tensors)


_MESSAGES: dict[Any, tuple[str, Callable[[Arguments], float]]] = MESSAGES | {
    functional.all_reduce: ("all_reduce", lambda args: bytes_of(args[0])),
    functional.all_reduce_: ("all_reduce", lambda args: bytes_of(args[0])),
    functional.all_gather_into_tensor: ("all_gather", lambda args: bytes_of(args[0]) * args[1]),
    functional.reduce_scatter_tensor: ("reduce_scatter", lambda args: bytes_of(args[0])),
    functional.all_to_all_single: ("all_to_all", lambda args: bytes_of(args[0])),
}
"""What a message is called, and its size by the conventions of `planner.work.ops.Message`."""
