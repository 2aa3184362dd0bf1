"""The words of serving: pools add up, and a run of decodes is its iterations one after another."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.serving import IterationShape, Pool, ServingPlan, decode_run_seconds
from tests.linear_prices import LinearPrices


def test_devices_of_a_plan_are_those_of_its_pools() -> None:
    """Replicas, tensor ranks, attention groups and stages multiply; pools add."""
    decode = Pool(replicas=3, tp=2, attention_dp=4, pp=2)
    assert decode.num_devices == 48
    assert ServingPlan(decode=decode, prefill=Pool(replicas=5, tp=4)).num_devices == 68


def test_tokens_of_an_iteration() -> None:
    """A decode is one row beside the rows of prompts."""
    assert IterationShape((100, 28), (0, 512), num_decodes=7, decode_context_tokens=900.0).num_tokens == 135


@given(
    num_decodes=st.integers(1, 64),
    context=st.integers(1, 20_000),
    iterations=st.integers(1, 300),
    bend=st.sampled_from([float("inf"), 3000.0, 10.0]),
)
def test_a_run_is_the_sum_of_its_iterations(num_decodes: int, context: int, iterations: int, bend: float) -> None:
    """Also where the line of prices bends on the way."""
    prices = LinearPrices(bend_tokens=bend)
    shapes = [
        IterationShape(num_decodes=num_decodes, decode_context_tokens=float(context + num_decodes * step))
        for step in range(iterations)
    ]
    stepped = np.cumsum([prices.iteration_seconds(shape) for shape in shapes])
    np.testing.assert_allclose(decode_run_seconds(prices, num_decodes, context, iterations), stepped, rtol=1e-12)
