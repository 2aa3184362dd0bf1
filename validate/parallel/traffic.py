"""What a rank really sends: every collective and transfer that torch dispatches, by axis."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from validate.parallel.groups import Axis

Arguments = tuple[Any, ...]
"""What an operation was called with."""


class Traffic(TorchDispatchMode):
    """While entered, counts messages and their bytes by (axis, collective), in the sizes of the planner's `Message`.

    Ranks that share several axes are named by the first of `axes`.
    """

    def __init__(self, axes: Iterable[Axis]) -> None:
        super().__init__()
        self.sent: dict[tuple[str, str], list[float]] = {}
        self.axis_of: dict[str, str] = {}
        for axis in axes:
            if axis.group is not None:
                self.axis_of.setdefault(axis.group.group_name, axis.name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Arguments = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, and count it if it sends something."""
        if any(issubclass(kind, torch.distributed.tensor.DTensor) for kind in types):
            return NotImplemented
        if func._overloadpacket in MESSAGES:
            collective, size = MESSAGES[func._overloadpacket]
            entry = self.sent.setdefault((axis_among(args, self.axis_of), collective), [0.0, 0.0])
            entry[0] += 1.0
            entry[1] += size(args)
        return func(*args, **(kwargs or {}))


def axis_among(args: Arguments, axis_of: Mapping[str, str]) -> str:
    """The axis whose group is among the arguments, by its name or as an object; `axis_of` maps names of groups."""
    for value in args:
        if isinstance(value, str) and value in axis_of:
            return axis_of[value]
        if isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type()):
            return axis_of[dist.ProcessGroup.unbox(value).group_name]
    raise AssertionError(f"no group of this plan among the arguments: {args}")


def bytes_of(value: Any) -> float:
    """Bytes of a tensor, or of a list of them."""
    tensors = value if isinstance(value, list | tuple) else [value]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def _argument(index: int) -> Callable[[Arguments], float]:
    return lambda args: bytes_of(args[index])


MESSAGES: dict[Any, tuple[str, Callable[[Arguments], float]]] = {
    torch.ops.c10d.allreduce_: ("all_reduce", _argument(0)),
    torch.ops.c10d._allgather_base_: ("all_gather", _argument(0)),
    torch.ops.c10d._reduce_scatter_base_: ("reduce_scatter", _argument(1)),
    torch.ops.c10d.alltoall_base_: ("all_to_all", _argument(1)),
    torch.ops.c10d.send: ("send_recv", _argument(0)),
}
"""What torch calls a collective -> the planner's word, and which argument is as large as the planner says it is."""
