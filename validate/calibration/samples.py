"""Micro-benchmarks of kernels, run on every rank together, as they are in training.

So shared caches, memory and power are shared here too.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from profiles.units import DTYPE_BYTES
from validate.calibration.bench import enter, leave
from validate.calibration.operands import TORCH_DTYPES, Work, cold, random_tensor
from validate.calibration.state_samples import launch_row, state_work
from validate.launch import Report


def kernel_samples(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Times of matrix products, attention and memory-bound kernels on this rank, as a body of `validate.launch`.

    `values`: `device`, `seconds_per_sample`, `patience_seconds`, `gemm` ([m, n, k] rows), `attention` ([batch, heads,
    length, head_dim] rows), `elements` (sizes), `parameters` (sizes of updates), `embeddings` ([tokens, vocabulary,
    width] rows), `copies` (whether to copy to the host and launch nothing), `dtypes`. Returns rows of {"kind", shape,
    "seconds"}.
    """
    bench = enter(values)
    generator = torch.Generator(bench.device).manual_seed(int(os.environ["RANK"]))
    rows = []
    work = list(itertools.chain(
        _gemm_work(values, bench.device, generator),
        _attention_work(values, bench.device, generator),
        _elementwise_work(values, bench.device, generator),
        state_work(values, bench.device, generator),
    ))  # fmt: skip
    for index, (row, make) in enumerate(work):
        report(f"{index + 1} of {len(work)}")
        rows.append(row | {"seconds": bench.kernel(make())})
    if values["copies"]:
        rows.append(launch_row(bench))
    return leave(bench, rows)


def _gemm_work(values: dict[str, Any], device: torch.device, generator: torch.Generator) -> Work:
    """Each product in the layouts of a linear layer: forward, data gradient, weight gradient."""
    for dtype, (m, n, k) in itertools.product(values["dtypes"], values["gemm"]):
        for layout in ("forward", "data", "weight"):
            left = (k, m) if layout == "weight" else (m, k)
            right = (n, k) if layout == "forward" else (k, n)

            def make(
                left: Any = left, right: Any = right, layout: str = layout, dtype: str = dtype
            ) -> Callable[[], object]:
                a, b = (random_tensor(size, dtype, device, generator) for size in (left, right))
                a = a.t() if layout == "weight" else a
                b = b.t() if layout == "forward" else b
                return lambda: torch.mm(a, b)

            yield {"kind": "gemm", "dtype": dtype, "m": m, "n": n, "k": k, "layout": layout}, make


def _attention_work(values: dict[str, Any], device: torch.device, generator: torch.Generator) -> Work:
    dtype = values["dtypes"][0]
    for shape in values["attention"]:
        for direction in ("forward", "both"):

            def make(shape: Any = shape, direction: str = direction) -> Callable[[], object]:
                query, key, value = (
                    random_tensor(shape, dtype, device, generator).requires_grad_(direction == "both") for _ in range(3)
                )

                def run() -> object:
                    out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
                    return torch.autograd.grad(out.sum(), (query, key, value)) if direction == "both" else out

                return run

            names = dict(zip(("batch", "heads", "length", "head_dim"), shape, strict=True))
            yield {"kind": "attention", "dtype": dtype, "direction": direction, **names}, make


def _elementwise_work(values: dict[str, Any], device: torch.device, generator: torch.Generator) -> Work:
    """Norm, activation and residual of each size, forward and backward, with the traffic the planner counts."""
    width, dtype = 512, values["dtypes"][0]
    weight = torch.ones(width, device=device, dtype=TORCH_DTYPES[dtype])
    kernels: dict[str, tuple[float, Callable[[Tensor, Tensor], object]]] = {
        "layer_norm": (2.0, lambda x, y: torch.native_layer_norm(x, [width], weight, weight, 1e-5)),
        "layer_norm_backward": (3.0, lambda x, y: _norm_backward(x, y, weight, width)),
        "gelu": (2.0, lambda x, y: F.gelu(x)),
        "gelu_backward": (3.0, lambda x, y: torch.ops.aten.gelu_backward(y, x)),
        "log_softmax": (2.0, lambda x, y: torch.log_softmax(x, -1)),
        "log_softmax_backward": (3.0, lambda x, y: torch.ops.aten._log_softmax_backward_data(y, x, -1, x.dtype)),
        "add": (3.0, lambda x, y: x + y),
        "sum": (1.0, lambda x, y: x.sum(0)),
        "copy": (2.0, lambda x, y: x.clone()),
        "update": (3.0, lambda x, y: x.add_(y)),
    }
    for elements, (name, (passes, kernel)) in itertools.product(values["elements"], kernels.items()):
        num_bytes = passes * elements * DTYPE_BYTES[dtype]

        def make(elements: int = elements, kernel: Any = kernel, num_bytes: float = num_bytes) -> Callable[[], object]:
            def pair() -> list[Tensor]:
                return [random_tensor((elements // width, width), dtype, device, generator) for _ in range(2)]

            return cold(kernel, pair, num_bytes)

        yield {"kind": "elementwise", "kernel": name, "num_bytes": num_bytes}, make


def _norm_backward(x: Tensor, grad: Tensor, weight: Tensor, width: int) -> object:
    rows = x.shape[:-1]
    mean, scale = x.new_zeros((*rows, 1)), x.new_ones((*rows, 1))
    return torch.ops.aten.native_layer_norm_backward(grad, x, [width], mean, scale, weight, weight, [True] * 3)
