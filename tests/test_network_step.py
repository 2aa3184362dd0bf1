"""Steps on a network: on an idle one as the clock without links has it, and slower for every cause by what it costs."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.phase import price_program
from planner.plan import Plan
from planner.work.lower import lower
from profiles import catalog
from simulator.disturbances import Disturbances
from simulator.engine import Simulation, simulate
from simulator.network.build import build_network
from simulator.network.step import NetworkStep, simulate_on_network
from simulator.trace import trace_events
from tests import scenes
from tests.cli import faults, meshwise

PLANS = {
    "pipeline": (Plan(dp=4, tp=4, pp=4, sequence_parallel=True, zero_stage=1), "megatron-core"),
    "no overlap": (Plan(dp=8, tp=2, pp=4), "pytorch-eager"),
    "context": (Plan(dp=4, tp=4, cp=4), "megatron-core"),
    "sharded": (Plan(dp=64, zero_stage=3), "torchtitan"),
    "mirrored": (Plan(dp=8, tp=2, pp=4, schedule="dualpipe"), "megatron-core"),
    "zero bubble": (Plan(dp=8, tp=2, pp=4, schedule="zb-h1"), "megatron-core"),
}
EVERY_PLAN = pytest.mark.parametrize("name", PLANS)


def play(
    name: str, cluster_name: str = "dgx-h100", fabric: str | None = None, *, model: str = "llama3-8b",
    slow_link: str | None = None, seed: int = 0, **options: object,
) -> tuple[Simulation, NetworkStep]:  # fmt: skip
    plan, stack_name = PLANS[name]
    job, stack = scenes.job(model, global_batch=64), scenes.stack(stack_name, dp_contention_fraction=0.0)
    cluster = scenes.cluster(64, cluster_name)
    program = lower(plan, job, stack)
    prices = price_program(program, cluster, stack)
    overlaps = {"dp_overlap": stack.dp_overlap, "pp_overlap": stack.pp_overlap}
    network = build_network(cluster, catalog.fabric(fabric) if fabric else None)
    if slow_link:
        network = network.slowed(network.link(slow_link), 0.02)
    step = simulate_on_network(program, prices, cluster, network, **overlaps,
                               generator=np.random.default_rng(seed), **options)  # type: ignore[arg-type]  # fmt: skip
    return simulate(program, prices, **overlaps), step


@EVERY_PLAN
@pytest.mark.parametrize("unfolds", [False, True])
def test_an_idle_network_changes_nothing(name: str, unfolds: bool):
    priced, step = play(name, unfolds=unfolds)
    whole = step.simulation
    assert whole.step_seconds == pytest.approx(priced.step_seconds, rel=2e-3)
    assert sum(whole.breakdown.parts().values()) == pytest.approx(whole.step_seconds)
    for part, seconds in priced.breakdown.parts().items():
        assert whole.breakdown.parts()[part] == pytest.approx(seconds, abs=4e-3 * priced.step_seconds), part
    assert step.busy_fraction.max() <= 1.0 + 1e-9


def test_without_a_pipeline_it_is_the_same_to_the_last_digits():
    priced, step = play("sharded")
    assert step.simulation.step_seconds == pytest.approx(priced.step_seconds, rel=1e-9)


@EVERY_PLAN
def test_an_idle_torus_changes_nothing(name: str):
    priced, step = play(name, "tpu-v5p")
    more = step.simulation.step_seconds / priced.step_seconds - 1.0
    assert -2e-3 < more < 1e-2  # gradients and tensor parallelism may meet on an axis


@EVERY_PLAN
def test_folded_and_unfolded_ranks_agree(name: str):
    folded, unfolded = (play(name, unfolds=unfolds)[1] for unfolds in (False, True))
    assert folded.folding.num_lanes == 1
    assert unfolded.folding.num_lanes * PLANS[name][0].pp == 64
    assert unfolded.simulation.step_seconds == pytest.approx(folded.simulation.step_seconds, rel=1e-6)


def test_others_on_the_network_and_hashes_that_agree_cost_time():
    idle, crowded, hashed = (
        play("sharded", fabric=fabric, background_fraction=others)[1].simulation
        for fabric, others in ((None, 0.0), (None, 0.8), ("fat-tree-ecmp", 0.0))
    )
    assert crowded.breakdown.dp_seconds > idle.breakdown.dp_seconds
    assert hashed.step_seconds > idle.step_seconds


def test_a_slow_link_slows_its_replicas():
    usual = play("pipeline")[1]
    slow = play("pipeline", slow_link="rank5=infiniband-leaf0")[1]
    assert slow.folding.num_lanes == 2
    assert slow.simulation.step_seconds > usual.simulation.step_seconds


def test_a_slow_host_costs_its_own_compute_and_others_their_waiting():
    usual = play("pipeline")[1]
    slow = play("pipeline", disturbances=Disturbances(slow_hosts={0: 0.5}))[1]
    assert slow.folding.num_lanes == 2
    before, after = usual.mean_parts(), slow.mean_parts()
    assert after["forward"] > before["forward"]
    assert after["idle"] + after["dp"] > before["idle"] + before["dp"]
    assert sum(after.values()) == pytest.approx(slow.simulation.step_seconds)


@pytest.mark.parametrize(
    "unequal",
    [
        Disturbances(speed_spread_fraction=0.05),
        Disturbances(jitter_fraction=0.05),
        Disturbances(noise_seconds=1e-4, noise_period_seconds=1e-3),
    ],
)
def test_unequal_ranks_wait_for_each_other(unequal: Disturbances):
    usual = play("pipeline")[1].simulation.step_seconds
    step = play("pipeline", disturbances=unequal)[1]
    assert step.folding.num_lanes == 16
    assert step.simulation.step_seconds > usual
    waits = [rank["tp"]["waiting"] for rank in step.delays]
    assert min(waits) >= 0.0
    assert max(waits) > 0.0


@settings(max_examples=8)
@given(st.sampled_from(sorted(PLANS)), st.floats(0.0, 0.9), st.integers(0, 3))
def test_no_schedule_deadlocks_and_no_rank_starves_under_any_delay(name: str, spread: float, seed: int):
    unequal = Disturbances(speed_spread_fraction=spread, jitter_fraction=spread)
    step = play(name, seed=seed, disturbances=unequal)[1]
    num_ranks = step.folding.num_lanes * PLANS[name][0].pp
    assert {track.rank for track in step.simulation.tracks} == set(range(num_ranks))
    assert step.busy_fraction.max() <= 1.0 + 1e-9


def test_the_same_seed_leaves_the_same_trace():
    traces = []
    for _ in range(2):
        step = play("pipeline", disturbances=Disturbances(jitter_fraction=0.1), seed=7)[1]
        events = trace_events(step.simulation.tracks, step.simulation.prices, num_stages=4, name_of=step.name)
        traces.append(json.dumps(list(events)))
    assert traces[0] == traces[1]


JOB = ["--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "64", "--tp", "4", "--pp", "4", "--global-batch",
       "64", "--zero-stage", "1"]  # fmt: skip
FLOWS = ["simulate", *JOB, "--network", "flows"]


def test_the_command_line_plays_and_draws(tmp_path: Path):
    heat, trace = tmp_path / "heat.png", tmp_path / "trace.json"
    answer = meshwise(
        *FLOWS, "--slow-host", "1=0.7", "--fabric", "rail", "--heat-map", heat, "--trace", trace, "--json"
    )
    found = json.loads(answer.out)["network"]
    assert found["num_simulated_ranks"] == 8
    assert found["message_seconds"]["tp"]["alone"] > 0.0
    assert found["undisturbed"]["step_seconds"] < json.loads(answer.out)["simulated"]["step_seconds"]
    assert heat.stat().st_size > 5000
    names = {event["args"]["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "M"
             and event["name"] == "process_name"}  # fmt: skip
    assert len(names) == 8
    shown = meshwise(*FLOWS, "--slow-host", "1=500W", "--os-noise", "50us/10ms").out
    assert "waiting for others" in shown
    assert "what is slow or broken costs" in shown


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--slow-host", "99=0.5"], "hosts are numbered 0 to 7"),
        (["--slow-host", "fast"], "HOST=SHARE"),
        (["--slow-host", "1=0"], "above 0"),
        (["--os-noise", "often"], "50us/10ms"),
        (["--background", "1"], "background"),
        (["--jitter", "-1"], "jitter"),
        (["--fidelity", "packets"], "folded, ranks"),
        (["--slow-link", "rank0:rank1=0.5"], "link rank0:rank1"),
        (["--slow-link", "rank0:nvlink0=fast"], "LINK=SHARE"),
        (["--failed-link", "rank0=nobody"], "link rank0=nobody"),
        (["--fabric", "nothing"], "nothing"),
    ],
)
def test_flags_without_sense_are_refused(flags: list[str], names: str):
    result = meshwise(*FLOWS, *flags)
    assert not faults(result)
    assert names in result.err


def test_draws_of_a_step_are_the_same_whoever_plays_them(tmp_path: Path):
    asked = [*FLOWS, "--jitter", "0.05", "--runs", "3", "--json"]
    plain = meshwise(*asked).out
    assert len(set(json.loads(plain)["network"]["run_seconds"])) == 3
    assert meshwise(*asked, "--workers", "2").out == plain
    assert meshwise(*asked, "--resume", tmp_path / "runs.jsonl").out == plain
    assert "nothing is drawn at random" in meshwise(*FLOWS, "--runs", "3").err


def test_flags_of_a_network_need_one():
    assert "--network flows" in meshwise("simulate", *JOB, "--jitter", "0.1").err
    assert "flows is" in meshwise("simulate", *JOB, "--network", "packets").err
