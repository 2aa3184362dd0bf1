"""Micro-benchmarks that the ranks of a calibration run: kernels on all devices at once, then collectives by size.

Kernels run on every rank together, as they do in training, so that shared caches and memory are shared here too.
"""

import itertools
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from profiles.units import DTYPE_BYTES, MEGA
from validate.launch import Report
from validate.measure import Usage, keep_freed_memory, settle_process
from validate.parallel.groups import all_gather_single, reduce_scatter_single
from validate.worker import choose_device, join

_MOST_FOREIGN_CORES = 0.12
"""Cores that others may keep busy during a measurement; the kernel counts in ticks, so that less is noise."""
_PAUSE_SECONDS = 0.3
_BETWEEN_SIZE, _BETWEEN_SECONDS = 512, 3e-3
"""A square product between two messages, and about what it takes on a core."""
_LEAST_REPEATS, _MOST_REPEATS = 5, 500
_LEAST_TIMED_SECONDS = 2e-4
"""Shorter calls are timed several at once."""
_COLD_BYTES = 96 * MEGA
"""Traffic after which a buffer comes round again: as in training, it has left the caches by then."""
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Bench:
    """How long to repeat, on which device, and how long to wait for other processes to go away."""

    device: torch.device
    seconds: float
    patience_seconds: float
    num_left_out: int = 0
    """Measurements thrown away because other processes ran beside them."""
    num_contended: int = 0
    """Measurements kept although other processes ran beside them, as patience was spent."""

    def kernel(self, run: Callable[[], object]) -> float:
        """Median seconds of one call, while all ranks call the same."""
        self.sync(run)
        calls = max(1, int(_LEAST_TIMED_SECONDS / max(self.sync(run), 1e-9)))
        return self._undisturbed(lambda: self._repeat(run, calls))

    def message(self, run: Callable[[], object]) -> float:
        """Median seconds of one call in which all ranks take part, and therefore call equally often.

        Between calls ranks compute, as in training: threads fall asleep, caches are cold, and ranks arrive apart.
        """
        work = torch.ones(_BETWEEN_SIZE, _BETWEEN_SIZE, device=self.device)

        def apart() -> float:
            self.sync(lambda: work @ work)
            return self.sync(run)

        apart()
        first = torch.tensor([apart()], device=self.device)
        dist.all_reduce(first, op=dist.ReduceOp.MAX)
        repeats = min(_MOST_REPEATS, max(_LEAST_REPEATS, int(self.seconds / (float(first) + _BETWEEN_SECONDS))))
        return self._undisturbed(lambda: statistics.median(apart() for _ in range(repeats)))

    def _repeat(self, run: Callable[[], object], calls: int) -> float:
        times: list[float] = []
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end or len(times) < _LEAST_REPEATS:
            times.append(self.sync(run, calls))
        return statistics.median(times)

    def _undisturbed(self, measure: Callable[[], float]) -> float:
        """Measure until no other process ran beside it, or patience is spent; the least disturbed one counts."""
        attempts: list[tuple[float, float]] = []
        while True:
            dist.barrier()
            before = Usage.now()
            seconds = measure()
            attempts.append((self._foreign_cores(before), seconds))
            if attempts[-1][0] <= _MOST_FOREIGN_CORES or self.patience_seconds <= 0.0:
                break
            time.sleep(_PAUSE_SECONDS)
            self.patience_seconds -= time.perf_counter() - before.wall_seconds
        foreign, seconds = min(attempts)
        self.num_left_out += len(attempts) - 1
        self.num_contended += foreign > _MOST_FOREIGN_CORES
        return seconds

    def _foreign_cores(self, before: Usage) -> float:
        """Cores that others kept busy since `before`; ranks agree on it, so that all measure again or none."""
        used = before.until(Usage.now())
        own = torch.tensor([used["own_core_seconds"]], dtype=torch.float64, device=self.device)
        dist.all_reduce(own)
        agreed = torch.tensor([(used["busy_core_seconds"] - float(own)) / used["wall_seconds"], self.patience_seconds],
                              dtype=torch.float64, device=self.device)  # fmt: skip
        dist.broadcast(agreed, src=0)
        self.patience_seconds = float(agreed[1])
        return float(agreed[0])

    def sync(self, run: Callable[[], object], calls: int = 1) -> float:
        """Seconds of one of `calls` calls, the device's work included."""
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter() - start) / calls


def kernel_samples(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Times of matrix products, attention and memory-bound kernels on this rank, as a body of `validate.launch`.

    `values`: `device`, `seconds_per_sample`, `patience_seconds`, `gemm` ([m, n, k] rows), `attention` ([batch, heads,
    length, head_dim] rows), `elements` (sizes), `dtypes`. Returns rows of {"kind", shape, "seconds"}.
    """
    bench = _enter(values)
    generator = torch.Generator(bench.device).manual_seed(int(os.environ["RANK"]))
    rows = []
    work = list(itertools.chain(
        _gemm_work(values, bench.device, generator),
        _attention_work(values, bench.device, generator),
        _elementwise_work(values, bench.device, generator),
    ))  # fmt: skip
    for index, (row, make) in enumerate(work):
        report(f"kernel {index + 1} of {len(work)}")
        rows.append(row | {"seconds": bench.kernel(make())})
    return _leave(bench, rows)


Work = Iterator[tuple[dict[str, Any], Callable[[], Callable[[], object]]]]
"""(what the row says, how to prepare the call): tensors are made when their turn comes."""


def _gemm_work(values: dict[str, Any], device: torch.device, generator: torch.Generator) -> Work:
    """Each product in the layouts of a linear layer: forward, data gradient, weight gradient."""
    for dtype, (m, n, k) in itertools.product(values["dtypes"], values["gemm"]):
        for layout in ("forward", "data", "weight"):
            left = (k, m) if layout == "weight" else (m, k)
            right = (n, k) if layout == "forward" else (k, n)

            def make(
                left: Any = left, right: Any = right, layout: str = layout, dtype: str = dtype
            ) -> Callable[[], object]:
                a, b = (_random(size, dtype, device, generator) for size in (left, right))
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
                    _random(shape, dtype, device, generator).requires_grad_(direction == "both") for _ in range(3)
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
        "add": (3.0, lambda x, y: x + y),
        "copy": (2.0, lambda x, y: x.clone()),
        "update": (3.0, lambda x, y: x.add_(y)),
    }
    for elements, (name, (passes, kernel)) in itertools.product(values["elements"], kernels.items()):
        num_bytes = passes * elements * DTYPE_BYTES[dtype]
        num_buffers = max(1, int(_COLD_BYTES / num_bytes))

        def make(
            elements: int = elements, kernel: Any = kernel, num_buffers: int = num_buffers
        ) -> Callable[[], object]:
            size = (elements // width, width)
            inputs = itertools.cycle([[_random(size, dtype, device, generator) for _ in range(2)]
                                      for _ in range(num_buffers)])  # fmt: skip
            kept: deque[object] = deque(maxlen=num_buffers)
            return lambda: kept.append(kernel(*next(inputs)))

        yield {"kind": "elementwise", "kernel": name, "num_bytes": num_bytes}, make


def _norm_backward(x: Tensor, grad: Tensor, weight: Tensor, width: int) -> object:
    rows = x.shape[:-1]
    mean, scale = x.new_zeros((*rows, 1)), x.new_ones((*rows, 1))
    return torch.ops.aten.native_layer_norm_backward(grad, x, [width], mean, scale, weight, weight, [True] * 3)


def _random(size: Any, dtype: str, device: torch.device, generator: torch.Generator) -> Tensor:
    return torch.randn(*size, device=device, generator=generator).to(TORCH_DTYPES[dtype])


def collective_samples(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Times of collectives over all ranks, as a body of `validate.launch`; sizes as in nccl-tests.

    `values`: `device`, `seconds_per_sample`, `patience_seconds`, `num_bytes` (sizes).
    Returns rows of {"op", "num_bytes", "seconds"}.
    """
    bench = _enter(values)
    world, rows = dist.get_world_size(), []
    calls = {
        "all_reduce": _all_reduce, "all_gather": _all_gather, "reduce_scatter": _reduce_scatter,
        "all_to_all": _all_to_all, "send_recv": _ping_pong,
    }  # fmt: skip
    for op, num_bytes in itertools.product(calls, values["num_bytes"]):
        report(f"{op} of {num_bytes} bytes on {world} ranks")
        elements = max(1, num_bytes // 4 // world) * world
        run, calls_per_run = calls[op](torch.ones(elements, device=bench.device), world)
        rows.append({"op": op, "num_bytes": 4 * elements, "seconds": bench.message(run) / calls_per_run})
    return _leave(bench, rows)


Prepared = tuple[Callable[[], object], int]
"""(a call, messages it sends one after another)."""


def _all_reduce(buffer: Tensor, world: int) -> Prepared:
    return lambda: dist.all_reduce(buffer), 1


def _all_gather(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: all_gather_single(buffer, mine), 1


def _reduce_scatter(buffer: Tensor, world: int) -> Prepared:
    mine = buffer[: len(buffer) // world].clone()
    return lambda: reduce_scatter_single(mine, buffer), 1


def _all_to_all(buffer: Tensor, world: int) -> Prepared:
    other = torch.empty_like(buffer)
    return lambda: dist.all_to_all_single(other, buffer), 1


def _ping_pong(buffer: Tensor, world: int) -> Prepared:
    """There and back between the first and the last rank; the others look on."""
    rank, last = dist.get_rank(), world - 1

    def run() -> None:
        if rank == 0:
            dist.send(buffer, last)
            dist.recv(buffer, last)
        elif rank == last:
            dist.recv(buffer, 0)
            dist.send(buffer, 0)

    return run, 2


def _enter(values: dict[str, Any]) -> Bench:
    settle_process()
    keep_freed_memory()
    device = choose_device(values["device"])
    join(device, int(os.environ["WORLD_SIZE"]), values.get("collective_timeout_seconds", 60.0))
    return Bench(device, values["seconds_per_sample"], values["patience_seconds"])


def _leave(bench: Bench, rows: list[dict[str, Any]]) -> dict[str, Any]:
    dist.destroy_process_group()
    device = bench.device
    return {
        "rows": rows,
        "num_left_out": bench.num_left_out,
        "num_contended": bench.num_contended,
        "device": device.type,
        "device_name": str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "",
    }
