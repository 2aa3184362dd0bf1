"""Recomputation that stops early runs everything but the last product of a layer and what follows it."""

import pytest

from planner.plan import Plan
from planner.recompute import Recompute
from planner.work.layers import layer_work
from planner.work.ops import Gemm, Message
from tests.scenes import job, stack

PLAN = Plan(recompute=Recompute.FULL)


def flops(counted: object) -> float:
    return sum(count * op.flops for op, count in counted if not isinstance(op, Message))  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["gpt3-6.7B", "llama3-8b"])
def test_the_last_product_is_not_run_again(model: str) -> None:
    work = job(model)
    shape = work.model
    whole = layer_work(work, "dense", PLAN, stack("llm-foundry", recompute_stops_early=False))
    early = layer_work(work, "dense", PLAN, stack("llm-foundry"))
    down = 2.0 * work.sequence_length * shape.ffn_size * shape.hidden_size
    assert flops(whole.backward.recomputed) == pytest.approx(flops(whole.forward.ops))
    assert flops(whole.backward.recomputed) - flops(early.backward.recomputed) == pytest.approx(down)
    products = [op for op, count in early.backward.recomputed if isinstance(op, Gemm) and count]
    assert products[-1].n > shape.hidden_size  # the up-projection is the last one needed


def test_without_recomputation_there_is_nothing_to_stop() -> None:
    assert flops(layer_work(job(), "dense", Plan(), stack("llm-foundry")).backward.recomputed) == 0.0
