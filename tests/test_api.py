"""Questions asked from Python have the answers that the commands print."""

import json
import os
from pathlib import Path

import pytest

from meshwise import api
from tests.cli import meshwise

EXAMPLES = Path(__file__).parent.parent / "examples"
JOB = {"model": "gpt2", "cluster": "dgx-a100", "global_batch": 16}
WORDS = ("--model", "gpt2", "--cluster", "dgx-a100", "--global-batch", "16")


def test_an_estimate_is_that_of_the_command() -> None:
    printed = json.loads(meshwise("estimate", *WORDS, "--tp", "2", "--json").out)
    found = api.estimate(**JOB, tp=2)
    assert found.step_seconds == printed["step_seconds"]
    assert found.memory.peak_bytes == printed["memory_bytes"]["peak"]


def test_a_search_holds_the_fields_of_a_split() -> None:
    found = api.plan(**JOB, tp=2, top=2, max_micro_batch=1, no_simulate=True)
    assert [one.plan.tp for one in found.candidates] == [2, 2]
    assert api.plan(**JOB, fix=["tp=2"], top=2, max_micro_batch=1, no_simulate=True).candidates == found.candidates


def test_a_plan_file_is_played() -> None:
    path = EXAMPLES / "llama3-70b-on-64-h100.toml"
    printed = json.loads(meshwise("simulate", os.fspath(path), "--json").out)
    assert api.simulate(path).breakdown.parts() == pytest.approx(printed["simulated"]["breakdown_seconds"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"modle": "gpt2"}, "modle: is no option here; did you mean model?"),
        ({"model": "gpt2", "cluster": "dgx-a100", "scale": "8,16"}, "scale: is no option here"),
        ({"model": "gpt2"}, "cluster: none given"),
    ],
)
def test_what_is_wrong_is_one_sentence(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("?", r"\?")):
        api.plan(**options)
