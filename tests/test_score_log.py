"""`score serving` on an engine's log: what the simulator itself recorded is predicted exactly."""

import json
from pathlib import Path

import numpy as np
import pytest

from planner.cost.serving import PriceBook
from planner.serving import Pool, ServingPlan
from profiles import catalog
from simulator.serving.play import play
from simulator.serving.requests import Requests
from simulator.serving.spec import Deployment, PoolSpec
from tests.cli import meshwise
from validate.score.serving.play import replica_of

META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 24, "max_num_batched_tokens": 2048},
    "hardware": {"device_name": "NVIDIA H100 SXM"},
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Requests of a made-up server a tenth slower than predicted, on a clock that began before."""
    draw = np.random.default_rng(1)
    requests = Requests(np.sort(draw.uniform(0.0, 8.0, 80)), draw.integers(20, 4000, 80), draw.integers(2, 300, 80))
    engine = catalog.engine("vllm").model_copy(update={"front_end_seconds": 0.0, "front_end_seconds_per_request": 0.0})
    cluster = catalog.cluster("h100-sxm", 2)
    pool = Pool(tp=2, token_budget=2048, max_sequences=24)
    replica, _ = replica_of(catalog.model("llama3.1-8b"), cluster, ServingPlan(pool), pool, engine, PriceBook())
    played = play(requests, [Deployment(PoolSpec(replica))])
    times = 500.0 + 1.1 * np.array([requests.arrival_seconds, played.first_token_seconds, played.last_token_seconds])
    names = ("queued_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks")
    rows = zip(*times.tolist(), requests.input_tokens.tolist(), requests.output_tokens.tolist(), strict=True)
    (tmp_path / "requests.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    (tmp_path / "meta.json").write_text(json.dumps(META))
    return tmp_path


def test_a_log_is_played_as_it_was(log: Path) -> None:
    """Prices a tenth too low, at arrivals a tenth apart: every time is a little more than a tenth short."""
    found = json.loads(meshwise("score", "serving", log, "--json").out)
    assert found["requests"] == 80
    assert found["plan"] == "tp 2"
    for name in ("ttft", "tpot", "e2e"):
        assert -0.35 < found["times"][name]["mean"]["error_fraction"] < -0.05
    shown = meshwise("score", "serving", log / "requests.jsonl")
    assert shown.code == 0
    assert "80 requests to llama3.1-8b" in shown.out


def test_stated_memory_is_what_there_was(log: Path) -> None:
    """A log that says how many tokens had room is played with them: with few, requests wait."""
    free = json.loads(meshwise("score", "serving", log, "--json").out)
    (log / "meta.json").write_text(json.dumps(META | {"kv_cache": {"num_kv_tokens": 9000}}))
    tight = json.loads(meshwise("score", "serving", log, "--json").out)
    assert tight["kv_tokens_are_stated"]
    assert (
        tight["times"]["ttft"]["mean"]["predicted_seconds"] > 2.0 * free["times"]["ttft"]["mean"]["predicted_seconds"]
    )


@pytest.mark.parametrize(
    ("meta", "line", "said"),
    [
        (META | {"hardware": {}}, None, "--cluster"),
        ({"model": "meta-llama/Llama-3.1-8B"}, None, "engine_kwargs"),
        (META, '{"queued_ts": 1.0}', "line 1"),
        (META, '{"queued_ts": 2, "first_token_ts": 1, "last_token_ts": 3, "input_toks": 1, "output_toks": 1}', "order"),
        (META, "", "no requests"),
    ],
)
def test_bad_logs_are_named(log: Path, meta: dict[str, object], line: str | None, said: str) -> None:
    """One sentence with the file and what is wrong."""
    (log / "meta.json").write_text(json.dumps(meta))
    if line is not None:
        (log / "requests.jsonl").write_text(line)
    found = meshwise("score", "serving", log)
    assert found.code == 2
    assert said in found.err
