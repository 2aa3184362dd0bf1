"""Tensors that micro-benchmarks work on: random, and out of the caches as in training."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from profiles.units import MEGA

Work = Iterator[tuple[dict[str, Any], Callable[[], Callable[[], object]]]]
"""(what the row says, how to prepare the call): tensors are made when their turn comes."""
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_COLD_BYTES = 96 * MEGA
"""Traffic after which a buffer comes round again: it has left the caches by then."""


def cold(kernel: Callable[..., object], make: Callable[[], Sequence[Tensor]], num_bytes: float) -> Callable[[], object]:
    """A call of `kernel` on copies of the tensors of `make`, so many that none is in the caches."""
    num_buffers = max(1, int(_COLD_BYTES / num_bytes))
    first = make()
    inputs = itertools.cycle([first, *([one.clone() for one in first] for _ in range(num_buffers - 1))])
    kept: deque[object] = deque(maxlen=num_buffers)
    return lambda: kept.append(kernel(*next(inputs)))


def random_tensor(size: Any, dtype: str, device: torch.device, generator: torch.Generator) -> Tensor:
    """Normal random values of `size`."""
    return torch.randn(*size, device=device, generator=generator).to(TORCH_DTYPES[dtype])
