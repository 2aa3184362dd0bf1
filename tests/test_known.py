"""Rows that name a model of the catalog take from it what a table has no column for, and only if they agree."""

import dataclasses

import pytest

from profiles import catalog
from profiles.model import TransformerShape
from validate.runs.known import known_shape
from validate.runs.published import published_runs
from validate.runs.table import Run

PLAIN = dataclasses.replace(
    published_runs("sequence_parallelism_table5")[0],
    **dict.fromkeys(
        ("params_b", "layers", "hidden", "ffn_hidden", "heads", "kv_heads", "vocab", "num_experts", "topk")
    ),
)


def named(model: str, **stated: object) -> Run:
    """A run that names `model` and states these columns of its shape."""
    return dataclasses.replace(PLAIN, model=model, **stated)


@pytest.mark.parametrize(
    ("model", "stated", "record"),
    [
        ("DeepSeekV3 (w/ MTP)", {"layers": 61, "hidden": 7168, "num_experts": 256, "params_b": 671.0}, "deepseek-v3"),
        ("DeepSeek-V3 671B", {}, "deepseek-v3"),
        ("Qwen3_30B_a3B", {"ffn_hidden": 768, "topk": 8}, "qwen3-30b-a3b"),
        ("Grok1 314B", {"layers": 64, "params_b": 314.0}, "grok-1"),
        ("LLAMA3_70B [SFT]", {"vocab": 128256, "kv_heads": 8}, "llama3-70b"),
    ],
)
def test_a_published_name_gives_the_published_shape(model: str, stated: dict[str, object], record: str) -> None:
    assert known_shape(named(model, **stated)) == catalog.model(record)


@pytest.mark.parametrize(
    "stated",
    [
        {"hidden": 4096}, {"heads": 64}, {"kv_heads": 8}, {"vocab": 50257}, {"ffn_hidden": 18432}, {"topk": 6},
        {"num_experts": 128}, {"params_b": 600.0}, {"layers": 60},
    ],
)  # fmt: skip
def test_a_row_that_contradicts_the_record_is_not_taken_for_it(stated: dict[str, object]) -> None:
    assert known_shape(named("DeepSeek-V3", **stated)) is None


def test_a_shortened_model_keeps_its_first_layers() -> None:
    short = known_shape(named("DeepSeek-V3 truncated to 4 layers", layers=4, notes="depth-reduced | dense_layers=1"))
    assert isinstance(short, TransformerShape)
    assert short.is_sparse_layer == (False, True, True, True)
    assert short.mla is not None
    assert known_shape(named("DeepSeek-V3", layers=4)) is None
    assert known_shape(named("DeepSeek-V3 truncated to 99 layers", layers=99)) is None


def test_names_are_not_read_as_files() -> None:
    for name in ("", "pyproject.toml", "profiles", "/", "unheard of"):
        assert known_shape(named(name)) is None
