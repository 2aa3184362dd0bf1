"""Turns tables of measured kernels into the operations that the planner prices.

A table is known by its columns (docs/cli.md). Its rows fall into batches: one accelerator, one library and one form,
whose shapes are the arrays of one operation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.work.forms import form_of
from planner.work.ops import Attention, DecodeAttention, Elementwise, ExpertLayer, Gemm, Kernel
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.units import MICRO
from validate.runs.table import BadTable
from validate.score.columns import Table, numbers, rows

Floats = NDArray[np.float64]

FORMATS: Mapping[str, str] = {"bfloat16": "bf16", "float16": "bf16"}
"""What the tables call 16-bit formats; kernels in either take as long."""
LIBRARIES: Mapping[str, str] = {"vidur_torch": "torch", "vidur_flash_attn": "torch", "vidur(sarathi/torch)": "torch"}
"""Back-ends whose kernels are PyTorch's own."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a table that one operation prices."""

    kind: str
    accelerator: Accelerator
    library: str
    form: str
    """Of products the form; of attention the formats "compute/cache"."""
    op: Kernel
    """Its fields are arrays, one value a row."""
    seconds: Floats
    """Measured."""
    index: NDArray[np.int64]
    """Row numbers in the table, from 0."""
    sources: NDArray[np.str_]


Skipped = Counter[str]
"""Reason -> rows."""
_Reader = Callable[[Table, Accelerator, str, str], Kernel]
"""(rows, accelerator, library, form) -> their operation."""


def read_batches(table: Table, skipped: Skipped) -> Iterator[Batch]:
    """The batches of a table of kernels; rows that cannot be modelled are added to `skipped`.

    Raises BadTable when it is no table of kernels, or a column holds something else than numbers.
    """
    kind, labels, reader = _kind(table)
    try:
        (latencies,) = numbers(table, "latency_us")
        yield from _batches(kind, labels, reader, table, latencies * MICRO, skipped)
    except ValueError as error:
        raise BadTable(str(error)) from None


def _kind(table: Table) -> tuple[str, tuple[str, ...], _Reader]:
    """Which kernel a table is of, the columns that tell its batches apart, and the reader of its rows."""
    for (kind, column), found in _KINDS.items():
        if column in table and "gpu" in table:
            return (kind, *found)
    raise BadTable(
        f"the columns {', '.join(list(table)[:6])} ... are those of no table of kernels; expected gpu, and "
        + " or ".join(f"{column} ({kind})" for kind, column in _KINDS)
    )


def _batches(
    kind: str, labels: tuple[str, ...], reader: _Reader, table: Table, seconds: Floats, skipped: Skipped
) -> Iterator[Batch]:
    usable = _usable(table, seconds, skipped)
    names = np.array([_label(*map(str, row)) for row in zip(*(table[label] for label in labels), strict=True)])
    for name in np.unique(names[usable]):
        index = np.flatnonzero(usable & (names == name))
        gpu, library, form = name.split("\t")
        part = rows(table, index)
        try:
            accelerator = catalog.accelerator(gpu)
        except catalog.UnknownName:
            skipped[f"accelerator {gpu} is not in the catalog"] += len(index)
            continue
        op = reader(part, accelerator, library, form)
        yield Batch(kind, accelerator, library, form, op, seconds[index], index, _sources(part))


def _label(gpu: str, backend: str, *formats: str) -> str:
    """Device, library (whatever its release) and form of a row."""
    library = LIBRARIES.get(backend, backend.split(" ")[0])
    return "\t".join((gpu, library, "/".join(FORMATS.get(dtype, dtype) for dtype in formats)))


def _usable(table: Table, seconds: Floats, skipped: Skipped) -> NDArray[np.bool_]:
    timed = np.isfinite(seconds) & (seconds > 0.0)
    doubted = timed & (table["suspect"] == 1) if "suspect" in table else np.zeros_like(timed)
    for reason, count in (("no latency", np.sum(~timed)), ("marked suspect by the table", np.sum(doubted))):
        if count:
            skipped[reason] += int(count)
    return np.asarray(timed & ~doubted)


def _sources(table: Table) -> NDArray[np.str_]:
    """Repository and revision of each row: what stands before the first colon."""
    if "source" not in table:
        return np.full(len(table["gpu"]), "unstated")
    return np.array([str(source).partition(":")[0] for source in table["source"]])


def _gemm(table: Table, accelerator: Accelerator, library: str, name: str) -> Gemm:
    m, n, k = numbers(table, "m", "n", "k")
    form = form_of(name)
    cached = cached_fraction(form.weight_bytes * n * k, library, name, accelerator)
    return Gemm(m, n, k, dtype=form.dtype, library=library, form=name, cached_fraction=cached)


def cached_fraction(weight_bytes: Floats, library: str, form: str, accelerator: Accelerator) -> Floats:
    """Share of the weights that the cache of the device holds when the benchmark multiplies by them again.

    The benchmarks cycle through copies of the weights: TensorRT-LLM's through as many as exceed the cache, at most
    five; those of vLLM and SGLang six, or one (vLLM's block-scaled fp8 and NVFP4); PyTorch's through one model's
    layers, more than any cache. Cycling through more than the cache finds nothing of it left.
    """
    cache = accelerator.cache_bytes or 1.0
    copies = np.full_like(weight_bytes, {"torch": np.inf}.get(library, 6.0))
    if library == "trtllm":
        copies = np.clip(np.ceil(cache / weight_bytes), 1.0, 5.0)
    if library == "vllm" and form in ("fp8_block", "nvfp4"):
        copies = np.ones_like(weight_bytes)
    return np.asarray(1.0 / (1.0 + (copies * weight_bytes / (_FULL_CACHE * cache)) ** _CYCLING_SHARPNESS))


_FULL_CACHE = 0.9
_CYCLING_SHARPNESS = 6.0
"""The cached share falls from one to nothing around 0.9 of the cache."""


def _prefill(table: Table, accelerator: Accelerator, library: str, form: str) -> Attention:
    batch, new, past, heads, kv_heads, head_dim, window = numbers(
        table, "batch", "q_len_per_seq", "past_kv_len", "num_heads", "num_kv_heads", "head_dim", "window_size"
    )
    dtype, kv_dtype = form.split("/")
    return Attention(
        batch, heads, kv_heads, new, past + new, head_dim, head_dim, dtype=dtype, kv_dtype=kv_dtype, library=library,
        past_length=past, window_length=np.where(window > 0, window, np.inf),
    )  # fmt: skip


def _decode(table: Table, accelerator: Accelerator, library: str, form: str) -> DecodeAttention:
    batch, past, heads, kv_heads, head_dim, window = numbers(
        table, "batch", "past_kv_len", "num_heads", "num_kv_heads", "head_dim", "window_size"
    )
    dtype, kv_dtype = form.split("/")
    return DecodeAttention(
        batch, heads, kv_heads, past + 1.0, head_dim, head_dim, library, dtype, kv_dtype,
        window_length=np.where(window > 0, window, np.inf),
    )  # fmt: skip


def _elementwise(table: Table, accelerator: Accelerator, library: str, form: str) -> Elementwise:
    (num_bytes,) = numbers(table, "bytes_min")
    return Elementwise(num_bytes, library=library, kernel=form)


def _experts(table: Table, accelerator: Accelerator, library: str, form: str) -> ExpertLayer:
    tokens, hidden, width, chosen, experts, tp, ep = numbers(
        table, "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"
    )
    kernels = table["kernel_source"] if "kernel_source" in table else np.full(len(tokens), "")
    return ExpertLayer(
        tokens, tokens * chosen / ep, hidden, width / tp, experts / ep, library, form,
        num_matrices=np.where(np.char.find(kernels.astype(str), "nongated") >= 0, 2.0, 3.0),
        skew=np.array([float(str(name).rpartition("_")[2]) if "_" in str(name) else 0.0
                       for name in table["distribution"]]),
    )  # fmt: skip


_ATTENTION = ("gpu", "backend", "attn_dtype", "kv_cache_dtype")
_KINDS: Mapping[tuple[str, str], tuple[tuple[str, ...], _Reader]] = {
    ("gemm", "k"): (("gpu", "backend", "dtype"), _gemm),
    ("decode", "kv_bytes"): (_ATTENTION, _decode),
    ("prefill", "past_kv_len"): (_ATTENTION, _prefill),
    ("experts", "moe_ep_size"): (("gpu", "backend", "dtype"), _experts),
    ("elementwise", "bytes_min"): (("gpu", "backend", "op"), _elementwise),
}
"""(kernel, a column that only its table has) -> columns that tell batches apart, and the reader."""
