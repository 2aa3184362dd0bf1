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
from simulator.serving.result import Played
from simulator.serving.spec import Deployment, PoolSpec
from tests.cli import faults, meshwise
from validate.score.serving.play import replica_of

META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 24, "max_num_batched_tokens": 2048},
    "hardware": {"device_name": "NVIDIA H100 SXM"},
}


def _served(requests: Requests, changes: dict[str, object]) -> Played:
    """`requests` as a server with another record than the catalog's would answer them."""
    engine = catalog.engine("vllm").model_copy(update=changes)
    cluster, pool = catalog.cluster("h100-sxm", 2), Pool(tp=2, token_budget=2048, max_sequences=24)
    replica, _ = replica_of(catalog.model("llama3.1-8b"), cluster, ServingPlan(pool), pool, engine, PriceBook())
    return play(requests, [Deployment(PoolSpec(replica))])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Requests of a made-up server a tenth slower than predicted, on a clock that began before."""
    draw = np.random.default_rng(1)
    requests = Requests(np.sort(draw.uniform(0.0, 8.0, 80)), draw.integers(20, 4000, 80), draw.integers(2, 300, 80))
    played = _served(requests, {"front_end_seconds": 0.0, "front_end_seconds_per_request": 0.0})
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


SLOW = {"time_factors": {"gemm": 1.4, "elementwise": 1.4, "decode": 1.2, "prefill": 1.2}, "front_end_seconds": 0.05}
"""A machine whose kernels take longer than the catalog says."""


def _client_files(folder: Path, draw: np.random.Generator) -> list[Path]:
    """Two loads of the slow machine at a client: as CSV, and as vLLM's benchmark writes it."""
    (folder / "meta.json").write_text(json.dumps(META))
    table, detailed = folder / "served.csv", folder / "bench.json"
    for path, rate in ((table, 6.0), (detailed, 12.0)):
        arrivals = np.cumsum(draw.exponential(1.0 / rate, 60))
        requests = Requests(arrivals, draw.integers(20, 4000, 60), draw.integers(2, 300, 60))
        played = _served(requests, SLOW)
        first, last = played.first_token_seconds, played.last_token_seconds
        if path is table:
            columns = (arrivals, first, last, requests.input_tokens, requests.output_tokens)
            rows = [",".join(map(str, row)) for row in zip(*(one.tolist() for one in columns), strict=True)]
            names = "arrival_s,first_token_s,last_token_s,input_tokens,output_tokens"
            path.write_text("\n".join([names, *rows]))
            continue
        gaps = [[gap / 2, gap / 2] for gap in (last - first).tolist()]
        path.write_text(json.dumps({
            "start_times": [*arrivals.tolist(), 1.0], "ttfts": [*(first - arrivals).tolist(), 0.0], "itls": [*gaps, []],
            "input_lens": [*requests.input_tokens.tolist(), 9],
            "output_lens": [*requests.output_tokens.tolist(), 0],
        }))  # fmt: skip
    return [table, detailed]


@pytest.mark.slow
def test_a_log_fits_a_record_that_predicts_the_next(tmp_path: Path) -> None:
    """The two commands of the documentation, on another load than was fitted to."""
    table, detailed = _client_files(tmp_path, np.random.default_rng(2))
    mine = tmp_path / "mine.toml"
    found = json.loads(meshwise("calibrate", "--from-run", table, "--output", mine, "--json").out)
    assert found["before"]["tpot"] > 0.15
    assert max(found["after"]["tpot"], found["held_out"]["tpot"]) < 0.05
    assert found["engine"]["time_factors"]["gemm"] > 1.15
    scores = [
        json.loads(meshwise("score", "serving", detailed, "--json", *more).out) for more in ([], ["--engine", mine])
    ]
    before, after = (
        [abs(score["times"][name]["mean"]["error_fraction"]) for name in ("tpot", "e2e")] for score in scores
    )
    assert [score["requests"] for score in scores] == [60, 60]
    assert min(before) > 0.1
    assert max(after) < 0.04


@pytest.mark.parametrize(
    ("name", "text", "more", "said"),
    [
        ("bench.json", '{"ttfts": [1.0]}', [], "--save-detailed"),
        ("served.csv", "arrival_s,first_token_s\n1,2\n", [], "last_token_s"),
        ("served.csv", "arrival_s\n", [], "no requests"),
        (
            "served.csv",
            "arrival_s,first_token_s,last_token_s,input_tokens,output_tokens\n0,1,2,9,9\n",
            [],
            "20 are needed",
        ),
        ("requests.jsonl", None, ["--step-seconds", "1"], "--step-seconds"),
    ],
)
def test_nonsense_is_not_calibrated_from(log: Path, name: str, text: str | None, more: list[str], said: str) -> None:
    """One sentence, and no record."""
    if text is not None:
        (log / name).write_text(text)
    found = meshwise("calibrate", "--from-run", log / name, "--output", log / "mine.toml", *more)
    assert not faults(found)
    assert said in found.err
    assert not (log / "mine.toml").exists()
