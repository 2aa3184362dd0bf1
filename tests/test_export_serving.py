"""Serving jobs as commands: every engine says every pool it can, and refuses the rest."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from meshwise.export.registry import CannotExpress
from meshwise.serving.exporting import SERVING_TARGETS, Deployed, export_serving
from planner.serving import Pool, ServingPlan
from profiles import catalog
from tests.cli import faults, meshwise

JOB = Path(__file__).parents[1] / "examples" / "llama3-8b-chat.toml"
SPARSE = Deployed(
    catalog.model("deepseek-r1"),
    ServingPlan(Pool(attention_dp=8, ep=8, max_sequences=256), weights="fp8", kv_dtype="fp8"),
    catalog.engine("vllm"), 9216,
)  # fmt: skip


def options(deployed: Deployed, to: str) -> dict[str, str]:
    """Option -> value of the last command."""
    text = export_serving(deployed, to).text.splitlines()
    command = "\n".join(text[text.index(next(line for line in text if line.startswith("# "))) + 1 :])
    words = shlex.split(command)
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word: value if not value.startswith("--") else "" for word, value in pairs if word.startswith("--")}


def test_ranks_are_counted_as_each_engine_counts_them() -> None:
    """vLLM multiplies tp and dp; SGLang and TensorRT-LLM count all ranks as tp."""
    vllm = options(SPARSE, "vllm")
    assert (vllm["--tensor-parallel-size"], vllm["--data-parallel-size"], vllm["--max-num-seqs"]) == ("1", "8", "32")
    assert "--enable-expert-parallel" in vllm
    sglang = options(SPARSE, "sglang")
    assert (sglang["--tp-size"], sglang["--dp-size"], sglang["--ep-size"]) == ("8", "8", "8")
    assert sglang["--max-running-requests"] == "256"
    assert sglang["--kv-cache-dtype"] == "fp8_e4m3"
    trtllm = options(SPARSE, "trtllm")
    assert (trtllm["--tp_size"], trtllm["--ep_size"], trtllm["--max_batch_size"]) == ("8", "8", "32")
    assert "enable_attention_dp: true" in export_serving(SPARSE, "trtllm").text


def test_pools_of_their_own() -> None:
    """One command each, with the role that the engine's transfer knows; TensorRT-LLM wants another file."""
    split = replace(SPARSE, plan=ServingPlan(Pool(tp=8, ep=8), prefill=Pool(tp=4, ep=4, replicas=2)))
    assert export_serving(split, "vllm").text.count("vllm serve") == 2
    assert '"kv_role":"kv_producer"' in export_serving(split, "vllm").text
    assert options(split, "sglang")["--disaggregation-mode"] == "decode"
    with pytest.raises(CannotExpress, match="cluster file"):
        export_serving(split, "trtllm")


def test_guesses_ahead() -> None:
    """By heads of the model's own, or by a draft model, in the words of each engine; not where only prompts run."""
    heads = replace(SPARSE, plan=replace(SPARSE.plan, draft_tokens=2, acceptance_fraction=0.7))
    assert json.loads(options(heads, "vllm")["--speculative-config"]) == {"method": "mtp", "num_speculative_tokens": 2}
    assert options(heads, "sglang")["--speculative-num-draft-tokens"] == "3"
    assert "speculative_config: {decoding_type: MTP, max_draft_len: 2}" in export_serving(heads, "trtllm").text
    pools = replace(heads, plan=replace(heads.plan, prefill=Pool(tp=8)))
    assert export_serving(pools, "vllm").text.count("--speculative-config") == 1
    plan = ServingPlan(Pool(tp=4), draft_tokens=3, acceptance_fraction=0.8, draft_model="llama3.2-1b")
    draft = Deployed(catalog.model("llama3.1-70b"), plan, catalog.engine("vllm"), 9216)
    assert "Llama-3.2-1B" in options(draft, "vllm")["--speculative-config"]
    assert "Llama-3.2-1B" in options(draft, "sglang")["--speculative-draft-model-path"]
    assert "decoding_type: Draft_Target" in export_serving(draft, "trtllm").text


def test_what_cannot_be_said_is_refused() -> None:
    """Experts over some ranks, groups of several ranks, engines that are none."""
    some = replace(SPARSE, plan=ServingPlan(Pool(tp=8, ep=4)))
    with pytest.raises(CannotExpress, match="ep=4"):
        export_serving(some, "vllm")
    groups = replace(SPARSE, plan=ServingPlan(Pool(tp=2, attention_dp=4, ep=8)))
    with pytest.raises(CannotExpress, match="attention_dp=4"):
        export_serving(groups, "trtllm")
    with pytest.raises(ValueError, match="vllm, sglang, trtllm"):
        export_serving(SPARSE, "megatron")


def test_notes_say_what_is_left_to_the_user() -> None:
    """A checkpoint in another form, replicas behind a router, prices of another engine."""
    nvfp4 = replace(SPARSE, plan=ServingPlan(Pool(tp=8, replicas=2), weights="nvfp4"))
    notes = " ".join(export_serving(nvfp4, "sglang").notes)
    assert "whose weights are nvfp4" in notes
    assert "router" in notes
    assert "priced as vllm" in notes


@pytest.mark.parametrize("to", SERVING_TARGETS)
def test_command(to: str, tmp_path: Path) -> None:
    """Text for people, JSON for programs, a file where asked."""
    shown = meshwise("export", JOB, "--to", to)
    assert shown.code == 0
    assert "meta-llama/Meta-Llama-3-8B" in shown.out
    assert json.loads(meshwise("export", JOB, "--to", to, "--json").out)["text"] == shown.out
    assert meshwise("export", JOB, "--to", to, "--output", tmp_path / "serve.sh").code == 0
    assert (tmp_path / "serve.sh").read_text() == shown.out
    assert not faults(meshwise("export", JOB, "--to", "megatron"))
