"""Any command line and any job file ends in an answer or in one sentence."""

import csv
import io
import json
import tempfile
from importlib.resources import files
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from meshwise.jobfile import JobTable, SplitTable
from tests.cli import faults, meshwise

SHIPPED = (files("validate") / "data" / "sequence_parallelism_table5.csv").read_text()
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


@given(command=st.sampled_from(["estimate", "simulate"]), job=good, split=degrees)
def test_any_split_of_a_good_job_ends_in_an_answer_or_a_sentence(
    command: str, job: dict[str, object], split: dict[str, str]
) -> None:
    check([command, *(f"--{name}={value}" for name, value in {**job, **split}.items())])


plain = st.none() | st.booleans() | numbers | st.floats() | words | st.text(max_size=6)
tables = st.dictionaries(st.sampled_from([*JobTable.model_fields, *SplitTable.model_fields]), plain, max_size=5)


@given(command=st.sampled_from(["plan", "estimate", "simulate", "validate"]), job=tables, split=tables)
def test_any_file_ends_in_an_answer_or_a_sentence(
    command: str, job: dict[str, object], split: dict[str, object]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps({"job": job, "split": split}))
        check([command, str(path)])


json_values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner), max_leaves=6
)
CONFIG_KEYS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rope_scaling")
configs = st.dictionaries(st.sampled_from(CONFIG_KEYS) | st.text(max_size=6), json_values, max_size=6)


@given(config=configs, kind=st.sampled_from(["llama", "gpt2", "deepseek_v3", "zebra"]))
def test_any_model_config_ends_in_an_answer_or_a_sentence(config: dict[str, object], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({"model_type": kind, **config}))
        check(["estimate", "--model", str(path), "--cluster", "dgx-h100", "--global-batch", "8"])


CLUSTER_KEYS = ("name", "source", "node", "num_nodes", "accelerator", "num_devices", "tiers", "kernels")
clusters = st.dictionaries(st.sampled_from(CLUSTER_KEYS), json_values, max_size=8)


@given(cluster=clusters)
def test_any_cluster_file_ends_in_an_answer_or_a_sentence(cluster: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.json"
        path.write_text(json.dumps(cluster))
        check(["estimate", "--model", "gpt2", "--cluster", str(path), "--global-batch", "8"])


cells = st.text(max_size=5) | numbers.map(str) | words
lines = st.lists(st.lists(cells, max_size=5).map(",".join), max_size=4).map("\n".join)
HEADER, ROW = list(csv.reader(io.StringIO(SHIPPED)))[:2]


@given(changes=st.dictionaries(st.sampled_from(HEADER), cells, min_size=1, max_size=3))
def test_any_run_ends_in_a_score_or_a_sentence(changes: dict[str, str]) -> None:
    row = dict(zip(HEADER, ROW, strict=True)) | changes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, list(row.values())])
        check(["score", "training", str(path)])


@given(text=lines | st.text(max_size=40), header=st.booleans())
def test_any_table_ends_in_a_score_or_a_sentence(text: str, header: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        path.write_text(f"{','.join(HEADER)}\n{text}" if header else text)
        check(["score", "training", str(path)])


@given(command=st.sampled_from(["show", "list"]), name=st.text(max_size=12) | words)
def test_any_profile_name_ends_in_an_answer_or_a_sentence(command: str, name: str) -> None:
    check(["profiles", command, "--", name])
