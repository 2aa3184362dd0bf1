"""Micro-benchmarks of what a step does to parameters: updates, gradients of embeddings, copies to the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from profiles.units import DTYPE_BYTES, MIB
from validate.calibration.bench import Bench
from validate.calibration.operands import Work, cold, random_tensor

UPDATE_BYTES_PER_PARAMETER = 28.0
"""AdamW reads parameter, gradient and two states, and writes three of them, in fp32."""
_COPY_BYTES = 64 * MIB
_NUM_LAUNCHES = 200


def state_work(values: dict[str, Any], device: torch.device, generator: torch.Generator) -> Work:
    """Updates of `parameters`, gradients of `embeddings`, and `copies` between device and host where there is one."""
    for count in values["parameters"]:
        row = {"kind": "update", "num_bytes": UPDATE_BYTES_PER_PARAMETER * count}
        yield row, partial(_update, count, device, generator)
    for tokens, vocabulary, width in values["embeddings"]:
        traffic = (3.0 * tokens + vocabulary) * width * DTYPE_BYTES["fp32"]
        row = {"kind": "elementwise", "kernel": "embedding_backward", "num_bytes": traffic}
        yield row, partial(_embedding, tokens, vocabulary, width, device, generator)
    if values["copies"] and device.type == "cuda":
        for to_host in (False, True):
            yield {"kind": "host_copy", "to_host": to_host, "num_bytes": _COPY_BYTES}, partial(_copy, device, to_host)


def launch_row(bench: Bench) -> dict[str, Any]:
    """What the host takes to launch a kernel that does next to nothing."""
    tiny = torch.zeros(64, device=bench.device)
    bench.host_seconds(lambda: tiny.add_(1.0), _NUM_LAUNCHES)
    seconds = min(bench.host_seconds(lambda: tiny.add_(1.0), _NUM_LAUNCHES) for _ in range(5))
    return {"kind": "launch", "seconds": seconds}


def _update(count: int, device: torch.device, generator: torch.Generator) -> Callable[[], object]:
    parameter = nn.Parameter(random_tensor((count,), "fp32", device, generator))
    parameter.grad = random_tensor((count,), "fp32", device, generator)
    return torch.optim.AdamW([parameter], lr=1e-3, fused=True).step


def _embedding(
    tokens: int, vocabulary: int, width: int, device: torch.device, generator: torch.Generator
) -> Callable[[], object]:
    """The gradient of an embedding is as large as the embedding, and zero but for the rows of the tokens."""
    indices = torch.randint(vocabulary, (tokens,), device=device, generator=generator)

    def backward(gradient: Tensor) -> Tensor:
        return torch.ops.aten.embedding_dense_backward(gradient, indices, vocabulary, -1, False)

    size = (tokens, width)
    num_bytes = vocabulary * width * DTYPE_BYTES["fp32"]
    return cold(backward, lambda: [random_tensor(size, "fp32", device, generator)], num_bytes)


def _copy(device: torch.device, to_host: bool) -> Callable[[], object]:
    here = torch.empty(int(_COPY_BYTES), dtype=torch.uint8).pin_memory()
    there = torch.empty(int(_COPY_BYTES), dtype=torch.uint8, device=device)
    return lambda: here.copy_(there, non_blocking=True) if to_host else there.copy_(here, non_blocking=True)
