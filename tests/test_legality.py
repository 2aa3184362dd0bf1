"""Every rule rejects what it names, for one plan and for a grid alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.exchange_rules import EXCHANGE_RULES
from planner.choose.legality import RULES, check_plan, legal
from planner.offload import Offload
from planner.placement import parsed
from planner.plan import Plan, PlanGrid, Recompute
from planner.recompute import Module
from tests.scenes import cluster, job

ILLEGAL = {
    "degrees fill the cluster": (Plan(dp=2, tp=8), "llama3-8b"),
    "tp, cp, ep and sp split transformers only": (Plan(dp=4, tp=2), "resnet-50"),
    "microbatches fill the batch": (Plan(dp=8, micro_batch=3), "llama3-8b"),
    "tp divides heads and widths": (Plan(tp=3), "gpt2-xl"),
    "tp and kv heads divide one another": (Plan(tp=8), "phi-3-medium"),
    "layers divide into stages": (Plan(pp=5), "llama3-8b"),
    "the schedule's requirements hold": (Plan(dp=4, pp=2, vp=2), "llama3-8b"),
    "one stage has one schedule": (Plan(dp=8, schedule="gpipe"), "llama3-8b"),
    "sequence parallelism has a tp axis": (Plan(dp=8, sequence_parallel=True), "llama3-8b"),
    "cp divides the sequence in balanced halves": (Plan(cp=8), "llama3-8b"),
    "the expert mesh folds onto the dense one": (Plan(dp=8, ep=8), "llama3-8b"),
    "each expert sees a token once": (Plan(dp=4, tp=2), "mixtral-8x7b"),
    "cp trades heads by all-to-all or passes keys": (Plan(cp=8, cp_a2a=3), "llama3-8b"),
    "sharding has replicas to shard over": (Plan(tp=8, zero_stage=1), "llama3-8b"),
    "pipelines shard the optimizer, or everything": (Plan(dp=4, pp=2, zero_stage=2), "llama3-8b"),
    "only sharded parameters can be kept gathered": (
        Plan(dp=8, zero_stage=1, reshard_after_forward=False),
        "llama3-8b",
    ),
    "placements are for several groups of nodes": (Plan(dp=64, placement=parsed("64 of h100 @1")), "llama3-8b"),
    "replica groups share the shards": (Plan(dp=8, dp_replicate=2), "llama3-8b"),
    "only sharded parameters live on the host": (Plan(dp=8, offload=Offload.PARAMETERS), "llama3-8b"),
    "recomputed modules are the model's": (
        Plan(dp=8, recompute=Recompute.SELECTIVE, recompute_modules=Module.MOE),
        "llama3-8b",
    ),
    "recomputed layers are a chunk's": (Plan(dp=4, pp=2, recompute=Recompute.FULL, recompute_layers=17), "llama3-8b"),
}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in EXCHANGE_RULES], ids=lambda rule: rule.name)
def test_every_rule_has_a_plan_that_breaks_it(rule) -> None:
    if rule.name == "the host is reached at a known rate":
        pytest.skip("no plan breaks it, but a device does (tests/test_offload.py)")
    plan, model = ILLEGAL[rule.name]
    sequence_length = 2052 if plan.cp > 1 else 2048
    work = job(model, sequence_length=sequence_length)
    devices = cluster(8)
    assert not np.all(rule.holds(PlanGrid.of([plan]), work, devices))
    sentence = rule.sentence(plan, work, devices)
    assert sentence in check_plan(plan, work, devices)
    assert any(character.isdigit() for character in sentence), "a sentence names the value"


def test_a_good_plan_breaks_no_rule() -> None:
    plan = Plan(dp=4, tp=8, pp=2, micro_batch=2, sequence_parallel=True, zero_stage=1)
    assert check_plan(plan, job("llama3-8b"), cluster(64)) == []


degrees = st.sampled_from([1, 2, 3, 4, 8])
plans = st.builds(
    Plan, dp=degrees, tp=degrees, pp=degrees, cp=degrees, ep=degrees, etp=degrees, cp_a2a=degrees, vp=degrees,
    micro_batch=degrees, cp_gather=st.booleans(),
    schedule=st.sampled_from(["gpipe", "1f1b", "interleaved"]), recompute=st.sampled_from(Recompute),
    sequence_parallel=st.booleans(), zero_stage=st.integers(0, 3), reshard_after_forward=st.booleans(),
    dp_replicate=st.sampled_from([1, 2, 3]),
)  # fmt: skip


@given(st.lists(plans, min_size=1, max_size=10), st.sampled_from(["llama3-8b", "mixtral-8x7b", "t5-base"]))
def test_a_grid_and_its_plans_are_judged_alike(some: list[Plan], model: str) -> None:
    work, devices = job(model), cluster(8)
    mask, rejected = legal(PlanGrid.of(some), work, devices)
    assert list(mask) == [not check_plan(plan, work, devices) for plan in some]
    assert sum(rejected.values()) == len(some) - mask.sum()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recompute": Recompute.FULL, "recompute_modules": Module.MLP}, "recompute=selective alone"),
        ({"recompute": Recompute.SELECTIVE, "recompute_modules": Module.NOTHING}, "core_attn,mlp,layernorm"),
        ({"recompute": Recompute.SELECTIVE, "recompute_layers": 2}, "needs recompute=full"),
    ],
)
def test_recomputation_that_is_not_one_is_refused(changes, words) -> None:  # type: ignore[no-untyped-def]
    faults = check_plan(Plan(dp=8, **changes), job("llama3-8b"), cluster(8))
    assert any(words in fault for fault in faults)


def test_a_list_of_layers_has_no_modules_to_recompute() -> None:
    for policy in (Recompute.SELECTIVE, Recompute.OPERATORS):
        assert check_plan(Plan(dp=8, recompute=policy), job("resnet-50", sequence_length=1), cluster(8))
