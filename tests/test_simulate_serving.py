"""`meshwise simulate` of serving jobs: files, loads, figures, pictures, and what is refused."""

import json
from pathlib import Path

import pytest

from meshwise.serving import jobfile
from meshwise.serving.traffic import closed_loop, traffic
from tests.cli import meshwise

EXAMPLE = Path(__file__).parent.parent / "examples" / "llama3-8b-chat.toml"
SMALL = """
[job]
kind = "serving"
cluster = "dgx-h100"
[load]
{load}
[targets]
ttft_ms = 800
[serving]
model = "llama3-8b"
{serving}
"""
POISSON = "requests_per_second = 5.0\nrequests = 60\ninput_tokens = 300\noutput_tokens = 50"

BURSTS = 'arrivals = "bursty"\nvariation_factor = 4\nrequests_per_second = 5\ninput_tokens = 9\noutput_tokens = 9'

CLIENTS = "concurrency = 2\ninput_tokens = 9\noutput_tokens = 9"


def job(folder: Path, load: str = POISSON, serving: str = "", more: str = "") -> Path:
    path = folder / "job.toml"
    path.write_text(SMALL.format(load=load, serving=serving) + more)
    return path


def document(path: Path, *options: str) -> dict:
    done = meshwise("simulate", str(path), "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_example() -> None:
    """The shipped job meets its targets, and says all that people ask of it."""
    done = meshwise("simulate", str(EXAMPLE))
    assert done.code == 0, done.err
    for words in ("llama3-8b on 8 of dgx-h100", "targets met", "time to first token", "p99", "output tokens/s"):
        assert words in done.out


def test_json_picture_and_trace(tmp_path: Path) -> None:
    """Stable keys in SI units; both files are written, and are not replaced unasked."""
    path = job(tmp_path, POISSON + "\nruns = 2")
    files = ("--gantt", str(tmp_path / "a.png"), "--trace", str(tmp_path / "a.json"))
    found = document(path, *files)
    assert found["schema_version"] == 1
    assert len(found["runs"]) == 2
    figures = found["runs"][0]
    assert figures["num_requests"] == 60
    assert 0.0 < figures["ttft_seconds"]["p50"]["value"] < 0.8
    assert figures["attained_fraction"]["value"] == 1.0
    assert found["serving"][0]["pools"][0]["kv_tokens"] > 100_000
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    assert meshwise("simulate", str(path), *files).code == 2


def test_pools_scaling_failures_and_swap(tmp_path: Path) -> None:
    """Every table of a pool reaches the simulator: each changes what is played."""
    plain = document(job(tmp_path))
    split = document(job(tmp_path, serving="[serving.prefill]\ntp = 2"))
    assert split["num_devices"] == 3
    assert len(split["serving"][0]["pools"]) == 2
    failing = document(job(tmp_path, serving="[[serving.failures]]\nat_seconds = 3\nrepair_seconds = 30"))
    assert failing["runs"][0]["ttft_seconds"]["p99"]["value"] > 10.0 * plain["runs"][0]["ttft_seconds"]["p99"]["value"]
    scaling = "[serving.scaling]\nmost = 3\nrequests_per_replica = 1\nstartup_seconds = 1\ninterval_seconds = 1"
    scaled = document(job(tmp_path, serving=scaling))
    assert scaled["runs"][0]["replica_seconds"][0] > 1.5 * plain["runs"][0]["replica_seconds"][0]
    assert document(job(tmp_path, serving='preemption = "swap"'))["runs"] == plain["runs"]


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (
            'arrivals = "bursty"\nvariation_factor = 4\nrequests_per_second = 5\ninput_tokens = 9\noutput_tokens = 9',
            2000,
        ),
        ("concurrency = 8\nwarmup = 4\nshortest_fraction = 0.8\ninput_tokens = 100\noutput_tokens = 10", 84),
        ('trace = "t.csv"', 2),
        ('trace = "lengths.csv"\nrequests_per_second = 3\nrequests = 1\ncached_fraction = 0.5', 1),
    ],
)
def test_loads(load: str, count: int, tmp_path: Path) -> None:
    """Laws, closed loops and traces, whose paths are relative to the job."""
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens,tenant\n0,10,2,a\n1,20,3,b\n")
    (tmp_path / "lengths.csv").write_text("input_tokens,output_tokens\n100,2\n20,3\n")
    read = jobfile.read(job(tmp_path, load)).load
    requests = traffic(read, 0)
    assert len(requests) == count
    assert (closed_loop(read) is not None) == ("concurrency" in load)
    assert requests.cached_tokens is None or requests.cached_tokens.tolist() == [50]


def test_tenants_are_shown_apart(tmp_path: Path) -> None:
    """A trace with tenants has a line for each."""
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens,tenant\n0,10,2,ann\n1,20,3,bob\n")
    done = meshwise("simulate", str(job(tmp_path, 'trace = "t.csv"')))
    assert "ann" in done.out
    assert "bob" in done.out


@pytest.mark.parametrize(
    ("load", "serving", "sentence"),
    [
        ("requests = 5", "", "input_tokens and output_tokens are needed"),
        ("input_tokens = 9\noutput_tokens = 9", "", "does not say when requests arrive"),
        ("requests_per_second = 5", "", "input_tokens and output_tokens are needed"),
        (POISSON + "\nconcurrency = 3", "", "exclude one another"),
        (POISSON + "\npeak_ratio = 1.5", "", "peak_ratio is for arrivals = 'diurnal'"),
        (POISSON + "\nwarmup = 3", "", "are for a closed loop"),
        (POISSON, "replica = 3", "replica is not a field here"),
        (POISSON, 'router = "random"', "router must be 'round-robin'"),
        ('trace = "none.csv"', "", "cannot read"),
        (POISSON, "tp = 3", "tp: 3 does not divide the 32 attention heads"),
        (POISSON, "ep = 2", "ep: 2 does not divide the 0 experts"),
        (POISSON, 'weights = "fp7"', "fp7"),
        (POISSON, 'engine = "vlm"', "vllm"),
        ('trace = "lengths.csv"', "", "has no arrival times"),
        (
            "concurrency = 2\nwarmup = 9\nrequests = 9\ninput_tokens = 9\noutput_tokens = 9",
            "",
            "leave none that counts",
        ),
    ],
)
def test_faults_are_sentences(load: str, serving: str, sentence: str, tmp_path: Path) -> None:
    """Field, value, and what is right; exit code 2."""
    (tmp_path / "lengths.csv").write_text("input_tokens,output_tokens\n100,2\n20,3\n")
    done = meshwise("simulate", str(job(tmp_path, load, serving)))
    assert done.code == 2
    assert sentence in done.err


def test_options_of_training_jobs_are_refused(tmp_path: Path) -> None:
    """They would change nothing."""
    done = meshwise("simulate", str(job(tmp_path)), "--micro-batch", "2")
    assert done.code == 2
    assert "an option of training jobs" in done.err


def test_too_many_devices(tmp_path: Path) -> None:
    """Replicas that autoscaling may ask for count."""
    scaling = "[serving.scaling]\nmost = 9\nrequests_per_replica = 1\nstartup_seconds = 1"
    text = job(tmp_path, serving=scaling).read_text()
    (tmp_path / "job.toml").write_text(text.replace('"dgx-h100"', '"dgx-h100"\ndevices = 8'))
    done = meshwise("simulate", str(tmp_path / "job.toml"))
    assert "8 of dgx-h100 are fewer than the 9" in done.err


TASKS = """
[[task]]
name = "short"
share = 3
step = [{ serving = "llama3-8b" }]
[[task]]
name = "long"
step = [{ serving = "llama3-8b", output_tokens = 40 }, { serving = "llama3-8b", takes = "all", added_tokens = 7 }]
"""


def test_tasks_of_several_steps(tmp_path: Path) -> None:
    """A task ends with its last step: a longer one takes longer; both are shown, and shares are kept."""
    found = document(job(tmp_path, more=TASKS))
    assert found["runs"][0]["num_requests"] == 60
    short, long = (found["groups"][name] for name in ("short", "long"))
    assert short["num_requests"] + long["num_requests"] == 60
    assert 5 <= long["num_requests"] <= 25
    assert long["ttft_seconds"]["p50"]["value"] > 5.0 * short["ttft_seconds"]["p50"]["value"]


def test_two_models_share_a_cluster() -> None:
    """The shipped example: every task and every model has its line."""
    done = meshwise("simulate", str(EXAMPLE.with_name("assistant.toml")))
    assert done.code == 0, done.err
    for words in ("small: llama3-8b on 4", "large: llama3-70b on 4", "translated", "chat", "targets met"):
        assert words in done.out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('[[task]]\nname = "a"\nstep = [{ serving = "none" }]', "'none' is not one of llama3-8b"),
        (TASKS.replace('"long"', '"short"'), "task: names must differ"),
    ],
)
def test_faults_of_tasks(more: str, sentence: str, tmp_path: Path) -> None:
    """Steps name what is served."""
    done = meshwise("simulate", str(job(tmp_path, more=more)))
    assert done.code == 2
    assert sentence in done.err


def test_requests_longer_than_memory_are_an_answer(tmp_path: Path) -> None:
    """All are refused and counted; a picture of nothing is refused in a sentence."""
    path = job(tmp_path, "requests_per_second = 5.0\nrequests = 20\ninput_tokens = 9000000\noutput_tokens = 5")
    done = meshwise("simulate", str(path))
    assert done.code == 0
    assert "20 requests refused" in done.out
    assert "nothing to draw" in meshwise("simulate", str(path), "--gantt", str(tmp_path / "a.png")).err


def test_pools_lie_on_clusters_of_their_own(tmp_path: Path) -> None:
    """Prompts on older devices take longer; keys and values then cross the slower links; counts are kept by cluster."""
    others = '\n[[job.others]]\ncluster = "dgx-a100"\ndevices = 1'
    alike = document(job(tmp_path, serving="[serving.prefill]"))
    mixed = document(job(tmp_path, serving='[serving.prefill]\ncluster = "dgx-a100"', more=others))
    first, second = (found["runs"][0] for found in (alike, mixed))
    assert second["ttft_seconds"]["mean"]["value"] > 1.02 * first["ttft_seconds"]["mean"]["value"]
    assert second["e2e_seconds"]["mean"]["value"] > first["e2e_seconds"]["mean"]["value"]
    pools = mixed["serving"][0]["plan"]
    assert (pools["prefill"]["cluster"], pools["decode"]["cluster"]) == ("dgx-a100", "dgx-h100")
    two = meshwise(
        "simulate", str(job(tmp_path, serving='[serving.prefill]\ntp = 2\ncluster = "dgx-a100"', more=others))
    )
    assert two.code == 2
    assert "1 of dgx-a100 are fewer than the 2" in two.err
    unknown = meshwise("simulate", str(job(tmp_path, serving='cluster = "dgx-b200"')))
    assert unknown.code == 2
    assert "'dgx-b200' is not one of the job's (dgx-h100)" in unknown.err


def test_eager_launches_are_a_floor(tmp_path: Path) -> None:
    """A small batch waits for its launches; an engine that nobody measured in eager mode is refused."""
    captured, eager = document(job(tmp_path)), document(job(tmp_path, serving="eager = true"))
    times = [found["runs"][0]["tpot_seconds"]["p50"]["value"] for found in (captured, eager)]
    assert times[1] > 1.3 * times[0]
    assert times[1] > 9 * 32 * 40e-6
    refused = meshwise("simulate", str(job(tmp_path, serving='engine = "vllm-2023"\neager = true')))
    assert refused.code == 2
    assert "host_seconds_per_launch of engine vllm-2023 is not known" in refused.err
