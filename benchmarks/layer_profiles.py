"""Kernels of vLLM that LLMServingSim profiled, as tables: `python -m benchmarks.layer_profiles FOLDER OUT`.

FOLDER is a bundle of its profiler for one model on one device (profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1;
github.com/casys-kaist/LLMServingSim, MIT). Writes gemm, attention_prefill and attention_decode (.csv.gz) to OUT, which
`meshwise score kernels` scores and `benchmarks.library_records --also OUT` fits beside others. Prints how much longer
attention of running requests takes in a batch with a prompt: the median over prompts of at least 128 tokens and at
least eight requests of (mixed - prompt alone) / alone - 1, over query heads a key head less one.
"""

import argparse
import csv
import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from profiles import catalog
from profiles.model import TransformerShape

SOURCE = "casys-kaist/LLMServingSim@5daddb2 profiler/perf (MIT)"
_LEAST_PROMPT, _LEAST_REQUESTS, _LEAST_CONTEXT, _MOST_CONTEXT = 128, 8, 256, 4096
"""Below these kernels take little but their launch; beyond the last one batch outgrows any device."""
Shape = tuple[int, int, int, int]
"""Tokens of a prompt, those before them, running requests, and the context of each."""


def main() -> None:
    """Write the tables and print the excess of mixed batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    *_, hardware, publisher, name, _, split = asked.folder.resolve().parts
    model, tp = catalog.model(f"{publisher}/{name}"), int(split.removeprefix("tp"))
    assert isinstance(model, TransformerShape)
    gpu = catalog.accelerator(re.sub(r"RTX(PRO)?", lambda found: "rtx-pro-" if found[1] else "rtx-", hardware)).name
    attention = _attention(asked.folder / "attention.csv")
    asked.output.mkdir(parents=True, exist_ok=True)
    _write(asked.output / "gemm.csv.gz", gpu, _products(asked.folder, model, tp))
    heads = {
        "num_heads": model.num_heads // tp, "num_kv_heads": max(model.num_kv_heads // tp, 1),
        "head_dim": model.head_dim, "window_size": 0, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16",
    }  # fmt: skip
    _write(asked.output / "attention_prefill.csv.gz", gpu, _prompts(attention, heads))
    _write(asked.output / "attention_decode.csv.gz", gpu, _running(attention, heads))
    group = model.num_heads / model.num_kv_heads
    excess = np.array(list(_excess(attention))) / (group - 1.0)
    print(f"{gpu} {model.name} tp {tp}: {len(excess)} mixed batches, reread fraction {np.median(excess):.3f}")


Row = Mapping[str, object]


def _attention(path: Path) -> dict[Shape, float]:
    """Microseconds by shape."""
    with path.open(encoding="utf-8") as lines:
        return {
            (int(row["prefill_chunk"]), int(row["kv_prefill"]), int(row["n_decode"]), int(row["kv_decode"])):
            float(row["time_us"]) for row in csv.DictReader(lines)
        }  # fmt: skip


def _products(folder: Path, model: TransformerShape, tp: int) -> Iterator[Row]:
    hidden, queries = model.hidden_size, model.num_heads * model.head_dim // tp
    columns = {
        "qkv_proj": (queries + 2 * max(model.num_kv_heads // tp, 1) * model.head_dim, hidden),
        "o_proj": (hidden, queries), "gate_up_proj": (2 * model.ffn_size // tp, hidden),
        "down_proj": (hidden, model.ffn_size // tp), "lm_head": (model.vocabulary_size // tp, hidden),
    }  # fmt: skip
    for name, rows in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        with (folder / name).open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row["layer"] in columns:
                    n, k = columns[row["layer"]]
                    yield {"dtype": "bfloat16", "m": row[rows], "n": n, "k": k, "latency_us": row["time_us"]}


def _prompts(attention: Mapping[Shape, float], heads: Row) -> Iterator[Row]:
    for (new, past, running, _), time in attention.items():
        if new and not running:
            yield {**heads, "batch": 1, "q_len_per_seq": new, "past_kv_len": past, "latency_us": time}


def _running(attention: Mapping[Shape, float], heads: Row) -> Iterator[Row]:
    for (new, _, running, context), time in attention.items():
        if running and not new:
            yield {**heads, "batch": running, "q_len_per_seq": 1, "past_kv_len": context - 1, "kv_bytes": 1,
                   "latency_us": time}  # fmt: skip


def _excess(attention: Mapping[Shape, float]) -> Iterator[float]:
    for (new, past, running, context), time in attention.items():
        if (
            new >= _LEAST_PROMPT
            and past <= _MOST_CONTEXT
            and running >= _LEAST_REQUESTS
            and _LEAST_CONTEXT <= context <= _MOST_CONTEXT
        ):
            alone = attention.get((0, 0, running, context))
            prompt = attention.get((new, past, 0, 0))
            if alone and prompt:
                yield (time - prompt) / alone - 1.0


def _write(path: Path, gpu: str, rows: Iterable[Row]) -> None:
    found = [{"gpu": gpu, "backend": "vllm", "version": "0.19.0", "source": SOURCE, **row} for row in rows]
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
