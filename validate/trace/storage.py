"""Which memory a rank holds: every storage that operations make, from its making to its end."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False, slots=True)
class Held:
    """One storage while it lives."""

    num_bytes: float
    made_by: str
    """The operation, with the place among its outputs behind the first."""
    made_in: str
    """The layer it ran in."""
    phase: str
    is_resized: bool = False
    """Whether it was ever freed and filled again in place, as FSDP treats gathered parameters."""


class Storages(TorchDispatchMode):
    """Follows the storages that operations make while it is entered, and the fullest moment."""

    def __init__(self, where: Callable[[], tuple[str, str]]) -> None:
        """`where` tells the layer and the phase that run."""
        super().__init__()
        self.where = where
        self.live: dict[int, Held] = {}
        self.total_bytes = 0.0
        self.peak_bytes = 0.0
        self._references: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` and follow what it returns."""
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        for index, leaf in enumerate(tree_leaves(out)):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage(), f"{func.__name__}[{index}]" if index else func.__name__)
        return out

    def _follow(self, storage: torch.UntypedStorage, made_by: str) -> None:
        key = storage._cdata
        if key in self.live:
            return
        held = self.live[key] = Held(float(storage.nbytes()), made_by, *self.where())
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._grow(held.num_bytes)

    def _forget(self, key: int) -> None:
        held = self.live.pop(key)
        self._references.pop(key)
        self.total_bytes -= held.num_bytes

    def _grow(self, num_bytes: float) -> None:
        self.total_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)

    @contextmanager
    def resizes(self) -> Iterator[None]:
        """Notice storages that are resized in place, which no operation tells."""
        original = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            done = original(storage, size)
            held = self.live.get(storage._cdata)
            if held is not None:
                before, held.num_bytes, held.is_resized = held.num_bytes, float(size), True
                self._grow(held.num_bytes - before)
            return done

        torch.UntypedStorage.resize_ = resize
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = original
