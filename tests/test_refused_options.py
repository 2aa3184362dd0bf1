"""Options that would change nothing, or would be priced as something else, are refused with a sentence."""

import re

import pytest

from tests.cli import meshwise

DENSE = ("estimate", "--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "8")


@pytest.mark.parametrize(
    ("arguments", "field", "remedy"),
    [
        (("--top-k-fraction", "0.1"), "top_k_fraction", "gradient_compression=top-k"),
        (("--gather-precision", "fp8"), "gather_precision", "zero_stage of at least 1"),
        (("--expert-load-factor", "1.5"), "expert_load_factor", "leave it out"),
        (("--expert-capacity-factor", "2"), "expert_capacity_factor", "leave it out"),
        (("--ep", "2"), "ep=2", "leave both at 1"),
        (("--cluster", "dgx-2", "--precision", "bf16"), "precision", "choose fp32, fp16"),
        (("--precision", "nvfp4"), "h100-sxm has no units for nvfp4", "bf16, fp16, fp8"),
        (("--precision", "mxfp8"), "h100-sxm has no units for mxfp8", "bf16, fp16, fp8"),
    ],
)
def test_refused(arguments: tuple[str, ...], field: str, remedy: str) -> None:
    result = meshwise(*DENSE, *arguments)
    assert result.code == 2
    assert field in result.err
    assert remedy in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gradient-compression", "top-k", "--top-k-fraction", "0.1"),
        ("--gather-precision", "fp8", "--zero-stage", "3"),
        ("--cluster", "dgx-2", "--precision", "fp16"),
        ("--cluster", "dgx-b200", "--precision", "mxfp8"),
        ("--model", "mixtral-8x7b", "--expert-load-factor", "1.5", "--ep", "2"),
    ],
)
def test_taken_where_they_act(arguments: tuple[str, ...]) -> None:
    assert meshwise(*DENSE, *arguments).code == 0


def test_longest_run_is_bounded() -> None:
    result = meshwise("simulate", *DENSE[1:], "--global-batch", "8", "--days", "1e9")
    assert result.code == 2
    assert "days: must be at most 3,650" in result.err


def test_export_says_the_words_of_a_field() -> None:
    result = meshwise("export", *DENSE[1:], "--zero-stage", "3", "--offload", "activations", "--to", "deepspeed")
    assert result.code == 2
    assert "offload=activations" in result.err


def test_faster_plans_of_a_ranking_by_memory_carry_a_minus() -> None:
    result = meshwise("plan", "--model", "llama3.2-1b", "--cluster", "dgx-a100", "--objective", "memory", "--top", "3")
    assert result.code == 0
    assert "+-" not in result.out
    assert re.search(r" -\d+\.\d%", result.out)


def test_a_split_compared_is_said_once() -> None:
    result = meshwise("plan", *DENSE[1:], "--no-simulate", "--explain", "tp=2,pp=2")
    assert result.out.count("beside dp2 tp2 pp2") == 1
    assert "(dp2 tp2 pp2" not in result.out
