"""Operations count their work, forward and backward, and broadcast."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.work.ops import Attention, Elementwise, Gemm, Listed

sizes = st.integers(1, 10_000).map(float)


@given(sizes, sizes, sizes)
def test_a_backward_gemm_does_twice_the_work(m: float, n: float, k: float) -> None:
    gemm = Gemm(m, n, k)
    data, weight = gemm.backward()
    assert data.flops == weight.flops == gemm.flops == 2.0 * m * n * k
    assert (data.m, data.n, data.k) == (m, k, n)
    assert (weight.m, weight.n, weight.k) == (k, n, m)


def test_causal_attention_does_half_the_pairs() -> None:
    whole = Attention(2.0, 8.0, 8.0, 128.0, 128.0, 64.0, 64.0, causal=False)
    half = Attention(2.0, 8.0, 8.0, 128.0, 128.0, 64.0, 64.0, causal=True)
    assert whole.flops == 2 * half.flops == 4 * 2 * 8 * 128 * 128 * 64
    assert half.backward()[0].flops == 2.5 * half.flops


def test_grouped_keys_move_fewer_bytes() -> None:
    grouped = Attention(1.0, 8.0, 2.0, 128.0, 128.0, 64.0, 64.0)
    full = Attention(1.0, 8.0, 8.0, 128.0, 128.0, 64.0, 64.0)
    assert grouped.num_bytes < full.num_bytes
    assert grouped.flops == full.flops


def test_operations_broadcast() -> None:
    m = np.array([1.0, 2.0, 4.0])
    assert np.array_equal(Gemm(m, 3.0, 5.0).flops, 30.0 * m)
    assert Gemm(m, 3.0, 5.0, dtype="fp32").num_bytes == pytest.approx(4 * (5 * m + 15 + 3 * m))
    assert np.array_equal(sum(op.flops for op in Listed(m, 2 * m).backward()), 2 * m)


def test_elementwise_backward_has_its_own_traffic() -> None:
    (backward,) = Elementwise(10.0, 30.0, 1.0, 2.0).backward()
    assert (backward.num_bytes, backward.num_launches) == (30.0, 2.0)
