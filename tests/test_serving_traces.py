"""Traces in the layouts they are published in."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from simulator.serving.requests import Prefixes
from simulator.serving.traces import read_trace

LAYOUTS = {
    "ours.csv": "arrival_s,input_tokens,output_tokens,tenant\n3.5,10,2,b\n1.0,20,3,a\n",
    "azure.csv": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,20,3\n2023-11-16 18:15:49.1805900,10,2\n"
    ),
    "vidur.csv": "arrived_at,num_prefill_tokens,num_decode_tokens\n0,20,3\n2.5,10,2\n",
    "burst.csv": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,GPT-4,20,3,23,API log\n6,GPT-4,9,0,9,API log\n7.5,GPT-4,10,2,12,API log\n"
    ),
    "mooncake.jsonl": (
        '{"timestamp": 1000, "input_length": 20, "output_length": 3, "hash_ids": [1]}\n'
        '{"timestamp": 3500, "input_length": 10, "output_length": 2, "hash_ids": [2]}\n'
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts(name: str, zipped: bool, tmp_path: Path) -> None:
    """The same two requests, in order, from time 0."""
    path = tmp_path / (name + ".gz" if zipped else name)
    path.write_bytes(gzip.compress(LAYOUTS[name].encode()) if zipped else LAYOUTS[name].encode())
    requests = read_trace(path)
    np.testing.assert_allclose(requests.arrival_seconds, [0.0, 2.5], atol=1e-6)
    assert requests.input_tokens.tolist() == [20, 10]
    assert requests.output_tokens.tolist() == [3, 2]


def test_tenants_and_whole_blocks(tmp_path: Path) -> None:
    """Tenants are kept; of Mooncake's names only those of whole blocks."""
    path = tmp_path / "ours.csv"
    path.write_text(LAYOUTS["ours.csv"])
    requests = read_trace(path)
    assert requests.tenants == ("a", "b")
    assert requests.tenant is not None
    assert requests.tenant.tolist() == [0, 1]
    path = tmp_path / "long.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 1100, "output_length": 1, "hash_ids": [7, 8, 9]}\n')
    prefixes = read_trace(path).prefixes
    assert prefixes is not None
    assert prefixes.ids.tolist() == [7, 8]


def test_what_prompts_repeat() -> None:
    """Blocks at the head of a prompt that prompts before it had, not those after the first that is new."""
    prefixes = Prefixes(16, np.array([0, 3, 6, 8, 8]), np.array([1, 2, 3, 1, 2, 4, 9, 1]))
    assert prefixes.repeated_tokens.tolist() == [0.0, 32.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "arrival_s,input_tokens\n1,2\n", "no column output_tokens or"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n1,x,3\n", "a.csv:2"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n1,0,3\n", "are no request"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n", "holds no request"),
        ("a.jsonl", "{}\n", "a.jsonl:1 is no request of Mooncake's layout"),
        ("missing.csv", None, "cannot read"),
    ],
)
def test_faults_name_the_place(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    """One sentence with the file, the line and what is wrong."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(path)
