"""`plan` and `estimate` of serving jobs: the search finds what trying everything finds, and says why nothing serves."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from meshwise.serving import estimating, jobfile, planning
from planner.choose.serving import search_serving
from planner.choose.serving_replicas import Room, ServingQuestion, ServingSpace
from planner.cost.serving_load import Lengths
from profiles import catalog
from profiles.variant import variant
from tests.cli import meshwise

JOB = """\
[job]
kind = "serving"
cluster = "dgx-h100"
devices = 4

[load]
requests_per_second = 12.0
requests = 400
input_tokens = 800
output_tokens = 100

[targets]
ttft_ms = 400
tpot_ms = 20

[serving]
model = "llama3.1-8b"
pp = 1
token_budget = 8192
max_sequences = 128
"""
QUESTION = ServingQuestion(
    catalog.model("llama3.1-8b"), catalog.cluster("dgx-h100", 8), catalog.engine("vllm"), Lengths(800.0, 100.0), 50.0,
    0.4, 0.02,
)  # fmt: skip
SPACE = ServingSpace(tp=(1, 2, 4), pp=(1,), attention_dp=(1,), token_budgets=(8192,), sequence_limits=(64, 256))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A small job."""
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def test_candidates_meet_the_targets_and_are_in_order() -> None:
    """Every candidate serves the rate within the targets; fewer devices come first; more would not be needed."""
    found = search_serving(QUESTION, SPACE)
    devices = [one.plan.num_devices for one in found.candidates]
    assert devices == sorted(devices)
    assert any(one.plan.prefill for one in found.candidates)
    assert any(one.plan.prefill is None for one in found.candidates)
    for one in found.candidates:
        assert one.ttft_tail_seconds <= 0.4
        assert one.tpot_seconds <= 0.02
        assert one.most_requests_per_second >= 50.0
        assert one.plan.num_devices <= 8
        pool = one.plan.decode
        if one.plan.prefill is None and pool.replicas > 1:
            assert one.most_requests_per_second * (pool.replicas - 1) / pool.replicas < 50.0


def test_the_highest_rate_is_that_of_the_best_replicas() -> None:
    """Without a rate all devices serve, and tighter targets serve less."""
    free = replace(QUESTION, requests_per_second=None, ttft_seconds=math.inf, tpot_seconds=math.inf)
    best = search_serving(free, SPACE).candidates[0]
    tight = search_serving(replace(free, tpot_seconds=0.006), SPACE).candidates[0]
    assert best.plan.num_devices == 8
    assert tight.most_requests_per_second < best.most_requests_per_second
    assert best.most_requests_per_second == max(
        search_serving(free, replace(SPACE, tp=(tp,))).candidates[0].most_requests_per_second for tp in SPACE.tp
    )


def test_the_front_has_no_worse_members() -> None:
    """Along it, answers get slower and devices do more."""
    front = search_serving(QUESTION, SPACE).pareto
    assert len(front) > 1
    users = [one.tokens_per_second_per_user for one in front]
    devices = [one.tokens_per_second_per_device for one in front]
    assert users == sorted(users, reverse=True)
    assert devices == sorted(devices)


def test_nothing_serves() -> None:
    """Impossible targets and models too large are answers with reasons."""
    impossible = search_serving(replace(QUESTION, ttft_seconds=1e-4), SPACE)
    assert not impossible.candidates
    assert "idle, they miss the target of the first token" in impossible.refused
    assert "at best idle replicas begin an answer within" in impossible.nearest
    crowded = search_serving(replace(QUESTION, requests_per_second=1e4), SPACE)
    assert crowded.nearest.endswith("requests/s are answered within the targets on these devices")
    large = replace(QUESTION, model=catalog.model("llama3.1-405b"))
    assert "weights leave no room for one request" in search_serving(large, SPACE).refused


def test_estimate_of_a_file(job: Path) -> None:
    """Little's law, and the memory that is shown."""
    (found,) = estimating.estimate(jobfile.read(job))
    assert found.is_stable
    assert found.num_running == pytest.approx(12.0 * 99.0 * found.tpot_seconds, rel=1e-3)
    assert found.e2e_seconds == pytest.approx(found.ttft_seconds + 99.0 * found.tpot_seconds)
    text = meshwise("estimate", job)
    assert text.code == 0
    assert "most requests/s under the targets" in text.out
    answer = json.loads(meshwise("estimate", job, "--json").out)
    assert answer["serving"][0]["ttft_seconds"] == pytest.approx(found.ttft_seconds)
    assert meshwise("estimate", job, "--tp", "2").code == 2


def test_plan_of_a_file(job: Path, tmp_path: Path) -> None:
    """Stated fields are held, the best are simulated, the saved file is one that simulates, estimates and plans."""
    saved = tmp_path / "best.toml"
    shown = meshwise("plan", job, "--save", saved)
    assert shown.code == 0
    assert "no deployment is better in both" in shown.out
    table = tomllib.loads(saved.read_text())["serving"]
    assert table["pp"] == 1
    assert table["max_sequences"] == 128
    again = json.loads(meshwise("simulate", saved, "--json").out)
    assert again["runs"][0]["attained_fraction"]["value"] >= 0.99
    answer = json.loads(meshwise("plan", job, "--json", "--no-simulate", "--top", "2").out)
    assert len(answer["candidates"]) == 2
    assert answer["candidates"][0]["simulated"] is None
    assert meshwise("plan", job, "--tp", "2").code == 2
    job.write_text(JOB.replace("tpot_ms = 20", "tpot_ms = 0.1"))
    refused = meshwise("plan", job)
    assert refused.code == 3
    assert "no deployment meets the targets" in refused.out


HELD = 'tp = 1\nweights = "bf16"\nkv_dtype = "bf16"\n'
RATE = "requests_per_second = 12.0\nrequests = 400"


@pytest.mark.parametrize(
    ("load", "serving"),
    [
        ("requests_per_second = 44.0\nrequests = 1500\noutput_spread_fraction = 0.8", ""),
        ('requests_per_second = 20.0\nrequests = 1500\narrivals = "bursty"\nvariation_factor = 4.0', "pp = 1\n"),
        ("requests = 1000\noutput_spread_fraction = 0.8", "pp = 1\n"),
    ],
)
def test_the_first_choice_meets_the_targets_when_played(job: Path, tmp_path: Path, load: str, serving: str) -> None:
    """At a rate that fills replicas, in bursts, and at the highest rate: what is saved is within all targets, as it was
    said to be."""
    text = JOB.replace(RATE, load).replace("pp = 1\ntoken_budget = 8192\nmax_sequences = 128\n", HELD + serving)
    job.write_text(text)
    saved = tmp_path / "best.toml"
    answer = json.loads(meshwise("plan", job, "--save", saved, "--json").out)
    best = answer["candidates"][0]
    assert answer["is_met"]
    if "per_second" not in load:
        assert best["num_devices"] == 4
        assert best["requests_per_second"] > 40.0
    again = json.loads(meshwise("simulate", saved, "--json").out)["runs"][0]
    assert again["attained_fraction"]["value"] >= 0.99
    assert again["attained_fraction"] == best["simulated"]["attained_fraction"]


def test_no_deployment_that_was_played_meets_the_targets(job: Path, tmp_path: Path) -> None:
    """Bursts that no reserve takes: the best misses are shown, nothing is saved."""
    bursts = RATE + '\narrivals = "bursty"\nvariation_factor = 40.0'
    job.write_text(JOB.replace(RATE, bursts).replace("devices = 4", "devices = 1"))
    done = meshwise("plan", job, "--save", tmp_path / "best.toml")
    assert done.code == 3
    assert "none of the deployments that were simulated keeps 99.0%" in " ".join(done.out.split())
    assert not (tmp_path / "best.toml").exists()


def test_a_search_wants_one_model_and_a_rate(job: Path) -> None:
    """One sentence each."""
    job.write_text(JOB.replace("requests_per_second = 12.0", "concurrency = 8"))
    assert "needs a rate" in meshwise("plan", job).err
    file = jobfile.read(job)
    with pytest.raises(ValueError, match="one model"):
        planning.best_plans(file.model_copy(update={"serving": file.serving * 2}))


def test_guesses_ahead(job: Path) -> None:
    """Right guesses make tokens faster at low load, in closed form and simulated; half an option is refused."""
    plain = json.loads(meshwise("estimate", job, "--json").out)["serving"][0]["tpot_seconds"]
    job.write_text(JOB + "draft_tokens = 2\nacceptance_fraction = 0.8\n")
    guessed = json.loads(meshwise("estimate", job, "--json").out)["serving"][0]["tpot_seconds"]
    played = json.loads(meshwise("simulate", job, "--json").out)["runs"][0]["tpot_seconds"]["mean"]["value"]
    assert guessed < 0.7 * plain
    assert played == pytest.approx(guessed, rel=0.1)
    job.write_text(JOB + "draft_tokens = 2\n")
    assert "go together" in meshwise("estimate", job).err


def test_which_cluster_for_which_pool() -> None:
    """Of two kinds of devices the cheapest deployment is found, whatever kind each pool lies on; prices decide."""
    a100 = Room(catalog.cluster("dgx-a100", 8), 1.0, "dgx-a100")
    space = replace(SPACE, sequence_limits=(128,))
    costs = []
    for price in (1.01, 50.0):
        found = search_serving(replace(QUESTION, dollars_per_device_hour=price, others=(a100,)), space, top=100)
        dollars = [one.dollars_per_hour for one in found.candidates]
        assert dollars == sorted(dollars)
        best = found.candidates[0]
        pools = [pool for pool in (best.plan.prefill, best.plan.decode) if pool]
        prices = {"dgx-h100": price, "dgx-a100": 1.0}
        assert best.dollars_per_hour == pytest.approx(sum(pool.num_devices * prices[pool.cluster] for pool in pools))
        homes = {one.plan.clusters for one in found.candidates}
        assert {"dgx-h100", "dgx-a100"} < homes
        assert any(" and " in home for home in homes)
        costs.append(pools[-1].cluster)
    assert costs == ["dgx-h100", "dgx-a100"]
    held = search_serving(replace(QUESTION, others=(a100,)), replace(space, room="dgx-a100", prompt_room="dgx-h100"))
    assert {one.plan.clusters for one in held.candidates} <= {"dgx-a100", "dgx-h100 and dgx-a100"}


@pytest.mark.parametrize("name", [name for name in catalog.names("variants") if "distill" not in name])
def test_a_variant_is_smaller_and_says_what_it_loses(job: Path, name: str) -> None:
    """Less memory and no slower in every verb, with the published loss beside it."""
    whole = json.loads(meshwise("estimate", str(job), "--json").out)["serving"][0]
    job.write_text(JOB + f'variant = "{name}"\n')
    done = meshwise("estimate", str(job), "--json")
    assert done.code == 0, done.err
    small = json.loads(done.out)["serving"][0]
    assert small["memory_bytes"][0]["weights"] < 0.7 * whole["memory_bytes"][0]["weights"]
    assert small["tpot_seconds"] < whole["tpot_seconds"]
    assert small["ttft_seconds"] <= whole["ttft_seconds"] * (1.0 + 1e-9)
    assert "MMLU 65" in small["variant"][1]
    assert "published of llama3.1-8b" in " ".join(meshwise("plan", str(job), "--no-simulate", "--top", "1").out.split())
    exported = meshwise("export", str(job), "--to", "vllm")
    assert "name the checkpoint of the variant" in exported.err + exported.out


def test_variants_refuse_what_they_do_not_fit(job: Path) -> None:
    """Devices without units for sparse weights, students of another teacher, experts, forms without a twin."""
    for old, new, sentence in (
        ('"dgx-h100"', '"dgx-1v"', "v100-sxm-32gb has no units"),
        ('"llama3.1-8b"', '"mixtral-8x7b"\ntp = 4', "mixtral-8x7b has experts"),
        ("pp = 1", 'pp = 1\nweights = "int8_wo"', "'int8_wo' is not kept sparsely"),
    ):
        job.write_text(JOB.replace(old, new) + 'variant = "sparse-2of4"\n')
        assert sentence in meshwise("estimate", str(job)).err
    job.write_text(JOB + 'variant = "r1-distill-qwen-32b"\n')
    assert "answers in place of deepseek-r1, not of llama3.1-8b" in meshwise("estimate", str(job)).err
    student = variant("r1-distill-qwen-32b").applied(catalog.model("deepseek-r1"))
    assert student.num_layers == catalog.model("qwen2.5-32b").num_layers


@pytest.mark.parametrize(
    ("cluster", "fields"),
    [
        ("xeon-8480", ""),
        ("tpu-v5e", ""),
        ("alveo-u55c", ""),
        ("versal-vck5000", 'weights = "sq"'),
        ("apple-m3-max", ""),
    ],
)
def test_small_models_on_other_devices(job: Path, cluster: str, fields: str) -> None:
    """CPUs, TPUs, FPGAs: a token takes at least the time to read the weights, and not a hundred times as long."""
    text = JOB.replace('"dgx-h100"', f'"{cluster}"').replace('"llama3.1-8b"', '"llama3.2-1b"')
    job.write_text(text.replace("devices = 4", "devices = 1").replace("12.0", "0.01") + fields)
    done = meshwise("estimate", str(job), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["serving"][0]
    device = catalog.cluster(cluster, 1).accelerator
    bound = found["memory_bytes"][0]["weights"] / device.memory_bytes_per_second
    assert bound < found["tpot_seconds"] < 100.0 * bound
    assert found["ttft_seconds"] > found["tpot_seconds"]


def test_a_draft_model_trades_memory_for_tokens(job: Path) -> None:
    """With good guesses tokens come faster, with bad ones slower; it takes memory; strangers are refused."""
    text = JOB.replace('"llama3.1-8b"', '"llama3.1-70b"').replace("pp = 1", 'pp = 1\ntp = 4\nweights = "fp8"')
    figures = {}
    for name, more in (
        ("alone", ""),
        ("good", "draft_tokens = 3\nacceptance_fraction = 0.8\n"),
        ("bad", "draft_tokens = 3\nacceptance_fraction = 0.05\n"),
    ):
        job.write_text(text + more + ('draft_model = "llama3.2-1b"\n' if more else ""))
        done = meshwise("estimate", str(job), "--json")
        assert done.code == 0, done.err
        figures[name] = json.loads(done.out)["serving"][0]
    assert figures["good"]["tpot_seconds"] < figures["alone"]["tpot_seconds"] < figures["bad"]["tpot_seconds"]
    held = [figures[name]["memory_bytes"][0] for name in ("alone", "good")]
    assert held[1]["weights"] > held[0]["weights"]
    assert held[1]["num_kv_tokens"] < held[0]["num_kv_tokens"]
    assert meshwise("plan", str(job), "--no-simulate").code in (0, 3)
    job.write_text(text + 'draft_model = "gpt2"\ndraft_tokens = 3\nacceptance_fraction = 0.8\n')
    assert "gpt2 knows 50,257 tokens" in meshwise("estimate", str(job)).err
    job.write_text(text + 'draft_model = "llama3.2-1b"\n')
    assert "draft_model: says who guesses" in meshwise("estimate", str(job)).err
