"""Prices of actions: sums of their operations, with the host as a floor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.kernels import kernel_seconds
from planner.cost.phase import (
    FLOOR_EXPONENT,
    LOAD_FIELDS,
    host_excess_seconds,
    load,
    price_program,
    priced_message,
)
from planner.plan import Plan, PlanGrid
from planner.work.lower import lower
from planner.work.ops import Gemm, Message
from planner.work.program import Kind, Work
from tests.scenes import cluster, job, stack

GEMM = Gemm(4096.0, 4096.0, 4096.0)


def test_a_load_adds_up_kernels_and_exposed_messages() -> None:
    plan, devices = Plan(tp=8), cluster(8)
    message = Message("tp", "all_reduce", 1e8, exposed_fraction=0.5)
    rows = load(Work(((GEMM, 3.0), (message, 2.0)), ((GEMM, 1.0),)), plan, devices, stack(host_seconds_per_launch=1e-5))
    values = dict(zip(LOAD_FIELDS, rows, strict=True))
    assert values["compute"] == pytest.approx(3 * kernel_seconds(GEMM, devices))
    assert values["recompute"] == pytest.approx(kernel_seconds(GEMM, devices))
    assert values["tp"] == pytest.approx(priced_message(message, plan, devices))
    assert values["launch"] == pytest.approx(6e-5)  # four products and two messages
    assert values["cp"] == values["ep"] == 0.0


@given(st.floats(1e-6, 10), st.floats(0, 10))
def test_the_host_is_a_floor(device: float, host: float) -> None:
    rows = np.array([[device], [0.0], [0.0], [0.0], [0.0], [host]])
    total = device + host_excess_seconds(rows)[0]
    assert max(device, host) - 1e-9 <= total <= max(device, host) * 2 ** (1 / FLOOR_EXPONENT) + 1e-9


def test_a_grid_is_priced_like_its_plans() -> None:
    grid = PlanGrid.product(tp=[1, 2, 8])
    work = Work(((GEMM, 1.0), (Message("tp", "all_reduce", 1e8), 1.0)))
    together = load(work, grid, cluster(8), stack())
    for row, plan in enumerate(grid):
        assert np.allclose(together[:, row], load(work, plan, cluster(8), stack()))


def test_every_action_of_a_program_has_a_price() -> None:
    plan = Plan(dp=2, tp=2, pp=2, zero_stage=1)
    program = lower(plan, job(), stack("megatron-lm-2022"))
    prices = price_program(program, cluster(8), stack("megatron-lm-2022"))
    assert set(prices) == set(program.work)
    forward = prices[Kind.FORWARD, 0].parts()
    assert forward["forward"] > 0
    assert forward["tp"] > 0
    assert sum(forward.values()) == pytest.approx(prices[Kind.FORWARD, 0].total_seconds)
    assert set(prices[Kind.SEND_FORWARD, 0].parts()) == {"pp"}
    assert prices[Kind.REDUCE_GRADIENTS, 0].parts()["dp"] > prices[Kind.GATHER_PARAMETERS, 0].parts()["dp"]
