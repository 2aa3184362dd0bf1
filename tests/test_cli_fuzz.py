"""Any command line and any job file ends in an answer or in one sentence."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwise.jobfile import JobTable, SplitTable
from tests.cli import faults, meshwise

numbers = st.integers(-2, 70) | st.sampled_from([2**31, 10**9, 10**30])
words = st.sampled_from(["gpt2", "llama3-8b", "mixtral-8x7b", "resnet-50", "dgx-h100", "a10", "gpipe", "full", "bf16"])
values = numbers.map(str) | words | st.text(max_size=6)
names = [f"--{name.replace('_', '-')}" for name in (*JobTable.model_fields, *SplitTable.model_fields)]
options = st.tuples(st.sampled_from([*names, "--fix", "--top", "--json", "--no-simulate"]), values)
good = st.fixed_dictionaries({
    "model": st.sampled_from(["gpt2", "llama3-8b", "mixtral-8x7b", "resnet-50", "bert-base"]),
    "cluster": st.sampled_from(["dgx-h100", "dgx-a100", "a10", "tpu-v5e", "t4"]),
    "devices": st.integers(1, 24),
    "global-batch": st.integers(1, 48),
})  # fmt: skip


def check(arguments: list[str]) -> None:
    result = meshwise(*arguments)
    if result.code == 2:
        assert not faults(result)
    else:
        assert result.code in (0, 3)
        assert result.out
        assert result.err == ""


@settings(deadline=None, max_examples=60)
@given(command=st.sampled_from(["plan", "estimate", "simulate"]), extra=st.lists(options, max_size=4))
def test_any_options_end_in_an_answer_or_a_sentence(command: str, extra: list[tuple[str, str]]) -> None:
    check([command, *(word for option in extra for word in option)])


degrees = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["1", "2", "4", "8", "3"])
        for name in ("dp", "tp", "pp", "cp", "ep", "vp", "micro-batch", "zero-stage")
    }
    | {
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "schedule": st.sampled_from(["gpipe", "1f1b", "interleaved"]),
    },
)


@settings(deadline=None, max_examples=60)
@given(command=st.sampled_from(["estimate", "simulate"]), job=good, split=degrees)
def test_any_split_of_a_good_job_ends_in_an_answer_or_a_sentence(
    command: str, job: dict[str, object], split: dict[str, str]
) -> None:
    check([command, *(f"--{name}={value}" for name, value in {**job, **split}.items())])


plain = st.none() | st.booleans() | numbers | st.floats() | words | st.text(max_size=6)
tables = st.dictionaries(st.sampled_from([*JobTable.model_fields, *SplitTable.model_fields]), plain, max_size=5)


@settings(deadline=None, max_examples=60)
@given(command=st.sampled_from(["plan", "estimate", "simulate", "validate"]), job=tables, split=tables)
def test_any_file_ends_in_an_answer_or_a_sentence(
    command: str, job: dict[str, object], split: dict[str, object]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps({"job": job, "split": split}))
        check([command, str(path)])
