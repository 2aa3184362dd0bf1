"""Reads a Chrome trace of PyTorch's profiler (Kineto): kernels by the operator that launched them, and NCCL's messages.

Operators carry shapes only where the profiler was told `record_shapes=True`. A trace without kernels is of a CPU, whose
operators are the kernels.
"""

import ast
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profiles.calibration import CollectiveOp
from profiles.files import BadFile
from profiles.units import DTYPE_BYTES, MICRO
from validate.logs.message import Skipped

_COLLECTIVES: tuple[tuple[str, CollectiveOp], ...] = (
    ("reduce_scatter", "reduce_scatter"), ("all_gather", "all_gather"), ("allgather", "all_gather"),
    ("allreduce", "all_reduce"), ("all_reduce", "all_reduce"), ("all_to_all", "all_to_all"),
    ("alltoall", "all_to_all"), ("send", "send_recv"), ("recv", "send_recv"),
)  # fmt: skip
"""What torch's collectives are called, in part -> the planner's."""
_DTYPES = {
    "c10::BFloat16": "bf16", "BFloat16": "bf16", "c10::Half": "fp16", "Half": "fp16", "float": "fp32", "Float": "fp32",
    "Byte": "int8", "Char": "int8",
}  # fmt: skip
_PRODUCTS = ("aten::mm", "aten::addmm")
_BOOKKEEPING_SECONDS = 5.0 * MICRO
"""Operators of a CPU that take less only make views and allocate."""
_STREAMING = {
    "aten::add": 3.0, "aten::add_": 3.0, "aten::mul": 3.0, "aten::mul_": 3.0, "aten::copy_": 2.0, "aten::gelu": 2.0,
    "aten::silu": 2.0, "aten::native_layer_norm": 2.0, "aten::gelu_backward": 3.0, "aten::silu_backward": 3.0,
}  # fmt: skip
"""Memory-bound operators -> how often they pass over their first input."""
_IN_PLACE = ("aten::add_", "aten::mul_", "aten::copy_")
_CAUSAL_ARGUMENT = {
    "aten::_scaled_dot_product_flash_attention": 4, "aten::_scaled_dot_product_flash_attention_backward": 11,
    "aten::_scaled_dot_product_cudnn_attention": 6, "aten::_scaled_dot_product_flash_attention_for_cpu": 4,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": 7,
}  # fmt: skip
"""Where `is_causal` stands among an attention operator's arguments (torch 2.13, native_functions.yaml)."""


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """One collective on one rank; what it waited for others is in its seconds."""

    op: CollectiveOp
    ranks: tuple[int, ...]
    num_bytes: float
    seconds: float


@dataclass(slots=True)
class TorchTrace:
    """What traces hold that prices can be fitted to."""

    kernels: list[dict[str, Any]] = field(default_factory=list)
    """Rows as of `validate.calibration.samples`: {"kind", shape, "seconds"}."""
    messages: list[TracedMessage] = field(default_factory=list)
    device_names: list[str] = field(default_factory=list)
    kernel_seconds: float = 0.0
    """Of all kernels."""
    read_seconds: float = 0.0
    """Of those that a row holds."""
    skipped: Skipped = field(default_factory=Skipped)


def read_traces(paths: Sequence[Path]) -> TorchTrace:
    """The kernels and messages of `paths`, plain or compressed (.gz).

    Raises BadFile when a file is no Chrome trace of PyTorch, or none of its kernels can be told.
    """
    trace = TorchTrace()
    for path in paths:
        before = len(trace.kernels) + len(trace.messages)
        _read(path, trace)
        if len(trace.kernels) + len(trace.messages) == before:
            reasons = "; ".join(trace.skipped.reasons) or "it has no kernels and no messages"
            raise BadFile(f"{path}: nothing in it can be used: {reasons}")
    return trace


def _read(path: Path, trace: TorchTrace) -> None:
    document = _document(path)
    events = [event for event in document["traceEvents"] if isinstance(event, dict) and event.get("ph") == "X"]
    for device in document.get("deviceProperties") or ():
        name = str(device.get("name", ""))
        if name and name not in trace.device_names:
            trace.device_names.append(name)
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    for event in kernels:
        if _arguments(event).get("Collective name"):
            _add_message(event, trace)
    for operator, seconds in _launched(operators, kernels) if kernels else _alone(operators):
        trace.kernel_seconds += seconds
        row = _row(operator, trace.skipped)
        if row is not None and seconds > 0.0:
            trace.kernels.append(row | {"seconds": seconds})
            trace.read_seconds += seconds


def _document(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        document = json.loads(text)
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error, RecursionError):
        raise BadFile(
            f"{path}: not the JSON of a Chrome trace (torch.profiler's export_chrome_trace writes it)"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise BadFile(f"{path}: JSON, but no Chrome trace: it has no list of traceEvents")
    return document


def _arguments(event: Mapping[str, Any]) -> dict[str, Any]:
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def _seconds(event: Mapping[str, Any]) -> float:
    try:
        return float(event.get("dur", 0.0)) * MICRO
    except (TypeError, ValueError):
        return 0.0


def _launched(
    operators: Sequence[Mapping[str, Any]], kernels: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], float]]:
    """(operator, seconds of its kernels on the device) of every operator that launched some itself."""
    by_id = {_arguments(operator).get("External id"): operator for operator in operators}
    totals: dict[Any, float] = {}
    for kernel in kernels:
        arguments = _arguments(kernel)
        if not arguments.get("Collective name"):
            identity = arguments.get("External id")
            totals[identity] = totals.get(identity, 0.0) + _seconds(kernel)
    for identity, seconds in totals.items():
        yield by_id.get(identity, {"name": "", "args": {}}), seconds


def _alone(operators: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """(operator, its seconds) of a CPU: those that have a price whole, of others the innermost that take some time."""
    by_thread: dict[Any, list[Mapping[str, Any]]] = {}
    for operator in operators:
        by_thread.setdefault((operator.get("pid"), operator.get("tid")), []).append(operator)
    for own in by_thread.values():
        own.sort(key=lambda event: (float(event.get("ts", 0.0)), -float(event.get("dur", 0.0))))
        priced_until = 0.0
        for event, later in zip(own, [*own[1:], None], strict=True):
            start = float(event.get("ts", 0.0))
            end = start + float(event.get("dur", 0.0))
            is_innermost = later is None or float(later.get("ts", 0.0)) >= end
            if start < priced_until or (not is_innermost and _reader(str(event.get("name"))) is None):
                continue
            if _reader(str(event.get("name"))):
                priced_until = end
            elif _seconds(event) < _BOOKKEEPING_SECONDS:
                continue
            yield event, _seconds(event)


def _row(operator: Mapping[str, Any], skipped: Skipped) -> dict[str, Any] | None:
    """The row of an operator that prices know, without its time; others are counted by name."""
    name, arguments = str(operator.get("name", "")), _arguments(operator)
    shapes, types = arguments.get("Input Dims"), arguments.get("Input type") or arguments.get("Input Types")
    reader = _reader(name)
    if reader is None:
        skipped.add(f"kernels of {name}" if name else "kernels whose operator the trace does not hold")
        return None
    if not isinstance(shapes, list) or not isinstance(types, list) or not types:
        skipped.add("kernels without shapes (profile with record_shapes=True)")
        return None
    try:
        row = reader(name, shapes, types, arguments)
    except (IndexError, TypeError, ValueError, KeyError):
        row = None
    if row is None:
        skipped.add(f"kernels of {name} in shapes or formats that are not priced")
    return row


def _product(name: str, shapes: list[Any], types: list[Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    first = 1 if name == "aten::addmm" else 0
    (m, k), (inner, n) = shapes[first], shapes[first + 1]
    dtype = _DTYPES.get(types[first])
    if dtype is None or inner != k or min(m, n, k) < 1:
        return None
    return {"kind": "gemm", "dtype": dtype, "m": m, "n": n, "k": k}


def _attention(name: str, shapes: list[Any], types: list[Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    is_backward = name.endswith("_backward")
    query, key, value = shapes[1:4] if is_backward else shapes[:3]
    causal = str(arguments["Concrete Inputs"][_CAUSAL_ARGUMENT[name]]) == "True"
    dtype = _DTYPES.get(types[0])
    if dtype is None:
        return None
    return {
        "kind": "attention", "dtype": dtype, "direction": "backward" if is_backward else "forward", "causal": causal,
        "batch": query[0], "heads": query[1], "kv_heads": key[1], "query_length": query[2], "key_length": key[2],
        "head_dim": query[3], "value_dim": value[3],
    }  # fmt: skip


def _stream(name: str, shapes: list[Any], types: list[Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    elements = 1.0
    for size in shapes[0]:
        elements *= size
    dtype = _DTYPES.get(types[0])
    alike = _STREAMING[name] < 3.0 or shapes[1] == shapes[0]
    if dtype is None or not alike or elements < 1.0 or not shapes[0]:
        return None
    num_bytes = _STREAMING[name] * elements * DTYPE_BYTES[dtype]
    return {"kind": "elementwise", "kernel": name, "in_place": name in _IN_PLACE, "num_bytes": num_bytes}


Reader = Callable[[str, list[Any], list[Any], Mapping[str, Any]], dict[str, Any] | None]
"""(name, shapes, types, arguments) of an operator -> its row, or None where it has no price."""


def _reader(name: str) -> Reader | None:
    """What reads the operator called `name`; None for one that no price is fitted to."""
    if name in _PRODUCTS:
        return _product
    if name in _CAUSAL_ARGUMENT:
        return _attention
    return _stream if name in _STREAMING else None


def _add_message(event: Mapping[str, Any], trace: TorchTrace) -> None:
    arguments = _arguments(event)
    told = str(arguments["Collective name"]).lower()
    op = next((op for part, op in _COLLECTIVES if part in told), None)
    dtype = _DTYPES.get(str(arguments.get("dtype")))
    ranks = _ranks(arguments)
    try:
        elements = max(float(arguments.get("In msg nelems", 0)), float(arguments.get("Out msg nelems", 0)))
    except (TypeError, ValueError):
        elements = 0.0
    if op is None or dtype is None or elements < 1.0 or len(ranks) < 2 or _seconds(event) <= 0.0:
        trace.skipped.add(f"messages ({told}) that are not priced, or without sizes or ranks")
        return
    trace.messages.append(TracedMessage(op, ranks, elements * DTYPE_BYTES[dtype], _seconds(event)))


def _ranks(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The ranks of a message's group; long lists are cut off with an ellipsis, and go on as they began."""
    try:
        found = ast.literal_eval(str(arguments.get("Process Group Ranks", "[]")))
        size = int(arguments.get("Group size", 0))
        known = [int(rank) for rank in found if rank is not Ellipsis]
    except (ValueError, SyntaxError, TypeError):
        return ()
    if len(known) < size and len(known) > 1:
        stride = known[1] - known[0]
        known = [known[0] + stride * index for index in range(size)]
    return tuple(known) if len(known) == size else ()


__all__ = ["TorchTrace", "TracedMessage", "read_traces"]
