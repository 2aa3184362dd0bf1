"""Uneven stages: the layout that is found, and what estimate and simulator make of it."""

from dataclasses import replace

import numpy as np
import pytest

from planner.choose.legality import check_plan
from planner.choose.search import search
from planner.cost.estimate import estimate
from planner.cost.layouts import best_layout, fastest_layout
from planner.cost.memory import memory, usable_bytes
from planner.cost.stages import stage_times
from planner.plan import Plan, PlanGrid, Recompute
from planner.work.layers import num_blocks, stage_counts
from planner.work.lower import lower
from planner.work.program import program_flops
from simulator.play import play_plan
from tests.scenes import cluster, job, stack

DEEPSEEK = Plan(dp=4, pp=16, ep=4, zero_stage=1)


def test_deepseek_v3_runs_on_sixteen_stages() -> None:
    """61 layers, three of them dense: equal stages are refused, a layout is not."""
    work, devices, software = job("deepseek-v3", sequence_length=4096), cluster(64, "dgx-h100"), stack()
    assert "61 layers" in check_plan(DEEPSEEK, work, devices)[0]
    plan = replace(DEEPSEEK, layout=fastest_layout(DEEPSEEK, work, devices, software))
    assert not check_plan(plan, work, devices)
    assert len(plan.layout) == 16
    assert sum(plan.layout) == 61
    assert plan.layout[0] > plan.layout[-1]  # the first holds the cheap dense layers, the last the head


def test_a_layout_of_other_layers_is_refused() -> None:
    work, devices = job(), cluster(16)
    plan = Plan(dp=4, pp=4, layout=(8, 8, 8, 9))
    assert "deals 33 layers out to 4 chunks" in check_plan(plan, work, devices)[0]
    assert not check_plan(replace(plan, layout=(9, 8, 8, 7)), work, devices)


@pytest.mark.parametrize(("model", "vp"), [("gpt3-6.7B", 1), ("gpt3-6.7B", 2), ("t5-11b", 1), ("mixtral-8x7b", 1)])
def test_no_random_layout_has_a_faster_slowest_chunk(model: str, vp: int) -> None:
    work, devices, software = job(model), cluster(16), stack()
    plan = Plan(dp=4, pp=4, vp=vp, schedule="interleaved" if vp > 1 else "1f1b")
    generator, blocks, chunks = np.random.default_rng(0), num_blocks(work.model), 4 * vp
    found = fastest_layout(plan, work, devices, software)

    cuts = [np.sort(generator.choice(np.arange(1, blocks), chunks - 1, replace=False)) for _ in range(200)]
    layouts = [found, *(tuple(np.diff([0, *cut, blocks]).tolist()) for cut in cuts)]
    # of one chunk a stage, which is what the layout of a plan with chunks as stages costs
    flat = [replace(plan, dp=1, pp=chunks, vp=1, schedule="1f1b", layout=layout) for layout in layouts]
    best, *others = stage_times(PlanGrid.of(flat), work, devices, software).total_max
    assert min(others) >= best * 0.99 * (1.0 - 1e-9)  # an even layout is kept where it is as good within 1 %


def test_layouts_hold_every_layer_once() -> None:
    work = job("deepseek-v3", sequence_length=4096)
    even = stage_counts(work.model, 1)[0]
    chunks = stage_counts(work.model, 4, (20, 20, 20, 1))
    assert [sum(chunk.values()) for chunk in chunks] == [21, 20, 20, 4]  # a module for a further token, and the head
    assert chunks[-1] == {"moe": 2, "mtp": 1, "head": 1}
    assert {kind: sum(chunk.get(kind, 0) for chunk in chunks) for kind in even} == even


def test_flops_do_not_depend_on_the_layout() -> None:
    work, software = job(), stack()
    plan = Plan(dp=2, pp=4)
    uneven = replace(plan, layout=(11, 9, 7, 5))
    assert program_flops(lower(uneven, work, software)) == pytest.approx(program_flops(lower(plan, work, software)))


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved"])
def test_estimate_and_simulation_agree_on_uneven_stages(schedule: str) -> None:
    work, devices, software = job(), cluster(16), stack()
    vp = 2 if schedule == "interleaved" else 1
    layout = (11, 9, 7, 5) if vp == 1 else (6, 4, 4, 4, 4, 4, 4, 2)
    plan = Plan(dp=4, pp=4, vp=vp, schedule=schedule, layout=layout)
    played = play_plan(plan, work, devices, software)
    assert estimate(plan, work, devices, software).step_seconds == pytest.approx(played.step_seconds, rel=0.02)


def test_the_ends_may_have_chunks_of_their_own() -> None:
    """32 layers in 34 chunks: the first holds the embedding alone, the last the head (Llama 3 405B: 126 in 128)."""
    work, devices, software = job(), cluster(16), stack()
    plan = Plan(dp=8, pp=2, vp=17, schedule="interleaved", zero_stage=1)
    assert not check_plan(plan, work, devices)
    assert check_plan(replace(plan, vp=18), work, devices)
    chunks = stage_counts(work.model, 34)
    assert (chunks[0], chunks[-1]) == ({"embedding": 1}, {"head": 1})
    played = play_plan(plan, work, devices, software).step_seconds
    assert estimate(plan, work, devices, software).step_seconds == pytest.approx(played, rel=0.01)


def test_stages_that_do_not_fit_are_made_shorter() -> None:
    """The first stages hold the activations of more microbatches than the last."""
    work, devices, software = job("llama3-70b", sequence_length=8192), cluster(64, "dgx-a100"), stack()
    plan = Plan(dp=1, tp=8, pp=8, sequence_parallel=True, recompute=Recompute.SELECTIVE)
    fastest, best = (find(plan, work, devices, software) for find in (fastest_layout, best_layout))
    usable = usable_bytes(devices, software)
    peaks = [float(memory(replace(plan, layout=layout), work, software).peak_bytes) for layout in (fastest, best)]
    assert peaks[1] <= max(usable, peaks[0])
    assert best == fastest or (peaks[0] > usable >= peaks[1])


def test_a_search_offers_uneven_stages_where_the_software_knows_them() -> None:
    """62 layers and 8 stages of a model of 61 layers: no equal stages."""
    work, devices = job("deepseek-v3", sequence_length=4096, global_batch=256), cluster(64, "dgx-h100")
    held = {"pp": 8, "tp": 8, "cp": 1}
    assert search(work, devices, stack(), fixed=held).num_legal > 0
    assert search(work, devices, stack(uneven_stages=False), fixed=held).num_legal == 0
