import json
import os
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwise import jobfile
from meshwise.jobfile import JobTable, SplitTable
from planner.plan import PLAN_FIELDS, SCHEDULE_NAMES, Plan, Recompute

JOB = """
[job]
kind = "training"
model = "llama3-8b"
cluster = "dgx-h100"
devices = 16
global_batch = 64
sequence_length = 4096
"""


def write(folder: Path, text: str, name: str = "job.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_states_the_job(tmp_path: Path) -> None:
    file = jobfile.read(write(tmp_path, JOB), {}, {})
    assert file.job.model == "llama3-8b"
    assert file.job.devices == 16
    assert file.split is None


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    path = write(tmp_path, '{"job": {"model": "gpt2", "cluster": "a100"}, "split": {"tp": 2}}', "job.json")
    file = jobfile.read(path, {}, {})
    assert file.job.model == "gpt2"
    assert file.split is not None
    assert file.split.tp == 2


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = jobfile.read(write(tmp_path, JOB + "[split]\ntp = 4\npp = 2\n"), {"devices": 32}, {"tp": 8})
    assert file.job.devices == 32
    assert file.job.model == "llama3-8b"
    assert file.split is not None
    assert (file.split.tp, file.split.pp) == (8, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[job]\nmodle = 'x'", "job.modle is not a field here (did you mean model?)"),
        ("[[groups]]\nnode = 'dgx-h100'", "describes a cluster, not a job; name it by --cluster"),
        ("[job]\ndevices = 0", "job.devices must be greater than or equal to 1, got 0"),
        ("[job]\ndevices = -8", "job.devices must be greater than or equal to 1, got -8"),
        ("[job]\ndevices = nan", "job.devices must be a valid integer, got nan"),
        ("[job]\ndevices = '8'", "job.devices must be a valid integer, got '8'"),
        ("[job]\ndevices = true", "job.devices must be a valid integer, got True"),
        ("[job]\nkind = 'serving'", "job.kind must be 'training', got 'serving'"),
        ("[job]\nprecision = 'fp7'", "job.precision must be"),
        ("[split]\nschedule = 'zigzag'", "split.schedule must be 'gpipe'"),
        ("[split]\ntp = 1e9", "split.tp must be a valid integer"),
        ("[split]\ntp = 100000000000000000000", "split.tp must be less than or equal to 1000000"),
        ("[jobb]\n", "jobb is not a field"),
        ("job = 3", "job must be"),
        ("[job\n", "not valid TOML"),
    ],
)
def test_a_fault_names_file_field_and_what_is_right(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"job\.toml") as raised:
        jobfile.read(path, {}, {})
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(ValueError, match=r"huge\.toml: .* bytes, but a configuration file"):
        jobfile.read(path, {}, {})


def test_defaults_are_stated() -> None:
    question = jobfile.question(JobTable(model="llama3-70b", cluster="dgx-h100", devices=64))
    assert (question.job.sequence_length, question.job.global_batch) == (8192, 512)
    assert question.job.precision == "bf16"
    assert list(question.assumed) == ["sequence_length", "global_batch", "precision", "software", "optimizer"]
    left_open = {"gradient_precision", "moment_precision", "mtp_modules"}  # as the stack and the model say
    assert {name for name, value in question.table.model_dump().items() if value is None} == left_open


@pytest.mark.parametrize(("devices", "batch"), [(8, 512), (64, 512), (24, 504), (1000, 500), (16384, 512)])
def test_the_default_batch_splits_over_the_devices(devices: int, batch: int) -> None:
    question = jobfile.question(JobTable(model="llama3-70b", cluster="dgx-h100", devices=devices))
    assert question.job.global_batch == batch


def test_what_is_stated_is_not_assumed() -> None:
    table = JobTable(
        model="gpt2", cluster="dgx-a100", devices=8, global_batch=16, sequence_length=512, precision="fp16",
        software="pytorch-eager", optimizer="sgd",
    )  # fmt: skip
    question = jobfile.question(table)
    assert question.assumed == {}
    assert question.table == table


def test_a_device_without_bf16_is_planned_in_fp16() -> None:
    assert jobfile.question(JobTable(model="gpt2", cluster="dgx-2")).job.precision == "fp16"


def test_a_cpu_is_planned_as_validate_runs_it() -> None:
    question = jobfile.question(JobTable(model="gpt2", cluster="xeon-8480"))
    assert (question.job.precision, question.stack.name) == ("fp32", "pytorch-eager-cpu")


def test_a_list_of_layers_has_no_sequence() -> None:
    question = jobfile.question(JobTable(model="resnet-50", cluster="dgx-a100"))
    assert question.job.sequence_length == 1
    with pytest.raises(ValueError, match="sequence_length: resnet-50 is a plain list of layers"):
        jobfile.question(JobTable(model="resnet-50", cluster="dgx-a100", sequence_length=128))


@pytest.mark.parametrize(("field", "value"), [("model", None), ("cluster", None), ("model", "lama3-70b")])
def test_a_missing_or_unknown_name_says_what_to_type(field: str, value: str | None) -> None:
    table = JobTable(model="llama3-70b", cluster="dgx-h100").model_copy(update={field: value})
    with pytest.raises(ValueError, match=r"none given; name one|close names: llama3-70b"):
        jobfile.question(table)


def test_dp_is_what_the_devices_leave() -> None:
    assert jobfile.plan(SplitTable(tp=4, pp=2), 64).dp == 8
    assert jobfile.plan(SplitTable(pp=2, vp=2), 4).schedule == "interleaved"


@pytest.mark.parametrize("split", [SplitTable(tp=3), SplitTable(dp=3, tp=8), SplitTable(tp=128)])
def test_degrees_that_do_not_fill_the_devices_are_refused(split: SplitTable) -> None:
    with pytest.raises(ValueError, match=r"^dp: .*64 devices"):
        jobfile.plan(split, 64)


def test_a_complete_split_says_how_many_devices(tmp_path: Path) -> None:
    file = jobfile.read(None, {"model": "gpt2", "cluster": "dgx-a100"}, {"dp": 4, "tp": 4})
    assert jobfile.devices_of(file).devices == 16


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    path = write(tmp_path / "jobs", "[job]\nmodel = '../my.toml'\ncluster = 'dgx-h100'\n")
    job = jobfile.read(path, {}, {}).job
    assert job.model == str(tmp_path / "my.toml")
    assert job.cluster == "dgx-h100"


plans = st.builds(
    Plan,
    **{name: st.integers(1, 64) for name in ("dp", "tp", "pp", "cp", "ep", "vp", "micro_batch")},
    schedule=st.sampled_from(SCHEDULE_NAMES),
    recompute=st.sampled_from(Recompute),
    sequence_parallel=st.booleans(),
    zero_stage=st.integers(0, 3),
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(plan=plans, model=names)
def test_a_saved_plan_reads_back_as_itself(plan: Plan, model: str) -> None:
    table = JobTable(model=model, cluster="dgx-h100", devices=plan.num_ranks if plan.num_ranks <= 1_000_000 else None)
    values = tomllib.loads(jobfile.render(table, plan, Path("plans")))
    assert set(values["split"]) == set(PLAN_FIELDS)
    again = jobfile.plan(SplitTable.model_validate(values["split"]), plan.num_ranks)
    assert again == plan
    written = values["job"]["model"]
    assert written == model or os.path.normpath(Path("plans") / written) == os.path.normpath(model)


table_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from([*JobTable.model_fields, *SplitTable.model_fields]) | st.text(max_size=6)


@given(
    job=st.dictionaries(fields, table_values, max_size=4) | table_values,
    split=st.dictionaries(fields, table_values, max_size=4) | table_values,
)
def test_any_table_is_a_job_or_one_sentence(job: object, split: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), json.dumps({"job": job, "split": split}), "job.json")
        try:
            answer = jobfile.read(path, {}, {})
        except ValueError as error:
            answer = str(error)
    assert isinstance(answer, jobfile.JobFile) or answer.startswith(str(path))


def test_narrow_states_reach_the_stack_and_the_plan_file() -> None:
    table = JobTable(model="llama3-8b", cluster="dgx-h100", gradient_precision="bf16", moment_precision="int8")
    question = jobfile.question(table)
    assert (question.stack.gradient_bytes, question.stack.moment_bytes) == (2.0, 1.0)
    written = tomllib.loads(jobfile.render(question.table, Plan(dp=8), Path()))["job"]
    assert (written["gradient_precision"], written["moment_precision"]) == ("bf16", "int8")
