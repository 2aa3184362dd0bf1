"""Fair shares of links, against theory and against an independent linear program."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse
from scipy.optimize import linprog

from profiles import catalog
from simulator.network.build import build_network
from simulator.network.sharing import fair_rates
from simulator.network.wiring import NO_LINK

NETWORK = build_network(catalog.cluster("h100-oversubscribed", 512))


@st.composite
def crowds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(usage (flows, links), capacity) in which every flow uses some link."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 8)))
    usage = draw(arrays.arrays(float, shape, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])))
    usage[usage.sum(axis=1) == 0.0, 0] = 1.0
    return usage, draw(arrays.arrays(float, shape[1], elements=st.floats(0.1, 10.0)))


@given(crowds())
def test_no_link_is_overfull_and_every_flow_is_held_by_a_full_one(crowd: tuple[np.ndarray, np.ndarray]):
    usage, capacity = crowd
    rates = fair_rates(sparse.csr_array(usage), capacity)
    assert (rates > 0.0).all()
    load = rates @ usage
    assert (load <= capacity * (1.0 + 1e-9)).all()
    full = load >= capacity * (1.0 - 1e-9)
    for flow, rate in enumerate(rates):
        held = [link for link in np.flatnonzero(full & (usage[flow] > 0.0))
                if rate >= rates[usage[:, link] > 0.0].max() * (1.0 - 1e-9)]  # fmt: skip
        assert held, "a max-min fair flow is among the fastest of a full link"


def test_flows_that_use_nothing_run_at_their_limit():
    rates = fair_rates(sparse.csr_array(np.array([[0.0], [1.0]])), np.array([4.0]), np.array([3.0, 9.0]))
    assert rates.tolist() == [3.0, 4.0]
    assert fair_rates(sparse.csr_array(np.zeros((1, 1))), np.ones(1)).tolist() == [np.inf]


def two_jobs(rng: np.random.Generator) -> tuple[sparse.csr_array, np.ndarray]:
    """Flows of two jobs at random places of a tree with half the uplinks, and the links' rates in GB/s."""
    places = rng.permutation(NETWORK.num_devices)[: 2 * rng.integers(2, 7)]
    shift = int(rng.integers(1, len(places) // 2 + 1))
    jobs = np.array_split(places, 2)
    source = np.concatenate(jobs)
    target = np.concatenate([np.roll(jobs[0], -1), np.roll(jobs[1], -shift)])
    source, target = source[source != target], target[source != target]
    hops = NETWORK.routes(source, target)
    flow, hop = np.nonzero(hops != NO_LINK)
    links, column = np.unique(hops[flow, hop], return_inverse=True)
    capacity = NETWORK.links.bytes_per_second[links] / 1e9
    capacity *= rng.choice([1.0, 0.05], len(links), p=[0.7, 0.3])
    usage = sparse.csr_array((np.ones(len(flow)), (flow, column)), shape=(len(source), len(links)))
    return usage, capacity


def lexicographic(usage: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Max-min fair rates by linear programs: raise the least, fix whom nothing can raise further, and so on."""
    rates = np.full(len(usage), np.nan)
    while np.isnan(rates).any():
        free, fixed = np.flatnonzero(np.isnan(rates)), np.flatnonzero(~np.isnan(rates))
        left = np.maximum(capacity - rates[fixed] @ usage[fixed], 0.0)
        within = np.hstack([usage[free].T, np.zeros((len(capacity), 1))])
        above = np.hstack([-np.eye(len(free)), np.ones((len(free), 1))])
        least = -linprog(
            [*np.zeros(len(free)), -1.0], A_ub=np.vstack([within, above]), b_ub=[*left, *np.zeros(len(free))]
        ).fun
        room = [
            -linprog(-np.eye(len(free))[one], A_ub=usage[free].T, b_ub=left, bounds=(least * (1.0 - 1e-9), None)).fun
            for one in range(len(free))
        ]
        held = free[np.array(room) <= least * (1.0 + 1e-6)]
        assert len(held)
        rates[held] = least
    return rates


def agree(seed: int) -> None:
    usage, capacity = two_jobs(np.random.default_rng(seed))
    expected = lexicographic(usage.toarray(), capacity)
    assert fair_rates(usage, capacity) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_two_jobs_share_a_tapered_tree_as_a_linear_program_says(seed: int):
    agree(seed)


@pytest.mark.slow
def test_a_thousand_pairs_of_jobs_share_as_a_linear_program_says():
    for seed in range(1000):
        agree(seed)
