"""Read the measured tables that calibrations are fitted on, and choose the rows that count."""

import csv
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.work.ops import Attention
from profiles.units import DTYPE_BYTES, MICRO

Table = Mapping[str, NDArray[Any]]
"""Column name -> one value a row: floats (empty cells NaN) or strings."""

GPUS: Mapping[str, str] = {
    "a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm", "b200_sxm": "b200-sxm", "gb200": "gb200",
    "gb300": "gb300", "l40s": "l40s", "rtx_pro_6000_server": "rtx-pro-6000", "a40": "a40", "b60": "arc-pro-b60",
}  # fmt: skip
"""The tables' name of a device -> its name in the catalog."""

RANDOM_DATA_BACKENDS: Mapping[str, tuple[str, ...]] = {
    "bf16": ("trtllm", "sglang", "vidur_torch"), "fp8": ("trtllm", "sglang"), "fp4": ("trtllm", "sglang"),
}  # fmt: skip
"""Back-ends that multiply random matrices; constant ones draw less power and run 2 to 8 % faster than training."""

_DTYPES: Mapping[str, tuple[str, ...]] = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8",), "fp4": ("nvfp4",)}
_LEAST_WIDTH = 1024
_MOST_WEIGHT_COPIES = 5
_LEAST_ATTENTION_LENGTH = 256
_FLASH_SOURCES: Mapping[str, tuple[str, ...]] = {
    "flash-2": ("vllm_flash_attn", "vllm_flash_attn_fa2", "flash_attention"),
    "flash-3": ("fa3", "vllm_flash_attn_fa3", "trtllm_mha", "vllm_flashinfer_trtllmprefill"),
}
_NATIVE_HEAD_DIMS = (64, 128, 256)
_STREAMING_OPS = ("add", "fp8_static_quant")
_COLLECTIVES = {"alltoall": "all_to_all"}


def read_table(path: Path) -> Table:
    """The columns of a CSV file, gzipped or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header, *body = csv.reader(data.decode("utf-8").splitlines())
    return {name: _column([row[index] for row in body]) for index, name in enumerate(header)}


def _column(texts: list[str]) -> NDArray[Any]:
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts)


def rows(table: Table, chosen: NDArray[np.bool_]) -> Table:
    """The rows where `chosen` is true."""
    return {name: column[chosen] for name, column in table.items()}


def seconds(table: Table) -> NDArray[np.float64]:
    """The latency column in seconds."""
    return np.asarray(table["latency_us"] * MICRO)


def gemm_rows(table: Table, gpu: str, dtype: str, cache_bytes: float) -> Table:
    """Products of one device and dtype with wide weights that its cache did not hold, by back-ends on random data.

    The back-ends cycle through at most five copies of the weights; those five together must exceed the cache.
    A device without rows on random data counts with what it has.
    """
    measured = (table["gpu"] == gpu) & np.isin(table["dtype"], _DTYPES[dtype])
    random_data = measured & np.isin(table["backend"], RANDOM_DATA_BACKENDS[dtype])
    weight_bytes = table["n"] * table["k"] * DTYPE_BYTES[dtype]
    return rows(
        table,
        (random_data if random_data.any() else measured)
        & (np.minimum(table["n"], table["k"]) >= _LEAST_WIDTH)
        & (_MOST_WEIGHT_COPIES * weight_bytes >= cache_bytes),
    )


def equal_weights(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Weights that give every label the same total."""
    _, index, count = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[index])


def attention_rows(table: Table, gpu: str, family: str) -> Table:
    """Causal prefill in 16-bit formats without a past or a window, by kernels of one flash-attention family."""
    return rows(
        table,
        (table["gpu"] == gpu)
        & np.isin(table["kernel_source"], _FLASH_SOURCES[family])
        & (table["kv_cache_dtype"] == "bfloat16")
        & (table["suspect"] == 0)
        & (table["past_kv_len"] == 0)
        & (table["window_size"] == 0)
        & (table["q_len_per_seq"] >= _LEAST_ATTENTION_LENGTH)
        & np.isin(table["head_dim"], _NATIVE_HEAD_DIMS),
    )


def attention_operations(table: Table) -> Attention:
    """The rows as one operation whose fields are arrays."""
    return Attention(
        batch=table["batch"],
        heads=table["num_heads"],
        kv_heads=table["num_kv_heads"],
        query_length=table["q_len_per_seq"],
        key_length=table["q_len_per_seq"],
        head_dim=table["head_dim"],
        value_dim=table["head_dim"],
    )


def elementwise_rows(table: Table, gpu: str, cache_bytes: float) -> Table:
    """Streaming kernels on data far larger than the cache, or so small that launching is all that counts."""
    num_bytes = table["bytes_min"]
    return rows(
        table,
        (table["gpu"] == gpu)
        & np.isin(table["op"], _STREAMING_OPS)
        & ~np.char.startswith(table["backend"].astype(str), "sglang")
        & ((num_bytes >= 4.0 * cache_bytes) | (num_bytes <= 0.002 * cache_bytes)),
    )


def streaming_weights(table: Table, cache_bytes: float) -> NDArray[np.float64]:
    """Equal weights to the large and the small rows of each operation: one tells the rate, the other the launch."""
    large = (table["bytes_min"] >= cache_bytes).astype(str)
    return equal_weights(np.char.add(table["op"].astype(str), large))


def collective_rows(table: Table, gpu: str, collective: str) -> Table:
    """Times of nccl-tests on floats within one node (switches reduce floats, not the bytes of int8)."""
    names = np.array([_COLLECTIVES.get(str(op), str(op)) for op in table["op"]])
    by_tests = (table["impl"] == "nccl-tests") & np.isin(table["dtype"], ("float16", "float32"))
    by_torch = (table["impl"] == "torch.distributed nccl") & (table["op"] == "send_recv")
    return rows(
        table,
        (table["gpu"] == gpu) & (names == collective) & (table["num_nodes"] == 1) & (by_tests | by_torch),
    )
