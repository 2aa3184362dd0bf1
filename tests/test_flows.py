"""Collectives as flows: alone they take what the textbooks say, together they share, and no byte is lost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.collectives import members_within, message_seconds, reached_fractions
from profiles import catalog
from profiles.units import GIGA
from simulator.network.algorithms import ALGORITHMS, SWITCH, Algorithm
from simulator.network.alone import seconds_per_byte
from simulator.network.build import Network, build_network
from simulator.network.flows import Background, Job, play_jobs
from simulator.network.loads import MOST_PARTNERS, group_loads
from tests.test_network import CLUSTERS, network

NODE = build_network(catalog.cluster("dgx-h100", 8))
TREE = build_network(catalog.cluster("h100-oversubscribed", 512))
RATE = float(NODE.links.bytes_per_second[0])
STEP = 2.0 * float(NODE.links.latency_seconds[0])
"""Latency of a message between two devices of the node."""

PAIRS = [(name, collective) for name, one in ALGORITHMS.items() for collective in one.collectives]


def closed_form(name: str, collective: str, num_bytes: float, size: int, inner: int) -> float:
    """Seconds alone under one switch: a times the latency and b times S / rate [Thakur 2005, table 1]."""
    twice = 2 if collective == "all_reduce" else 1
    steps, shares = {
        "ring": (twice * (size - 1), twice * (size - 1) / size),
        "tree": (2 * np.ceil(np.log2(size)), 2 * np.ceil(np.log2(size))),
        "halving-doubling": (twice * np.log2(size), twice * (size - 1) / size),
        "direct": (twice, twice * (size - 1) / size),
        "pairwise": (size - 1, (size - 1) / size),
        "hierarchical": (
            twice * (inner - 1 + size // inner - 1),
            twice * ((inner - 1) / inner + (size // inner - 1) / size),
        ),
        "in-switch": (0.5, 1.0),
        "neighbours": (1, 1.0),
    }[name]
    return float(steps * STEP + shares * num_bytes / RATE)


def group(algorithm: Algorithm, size: int) -> tuple[int, int]:
    """The largest group of at most `size` that the algorithm serves, in nodes of two where it has nodes."""
    inner = 2 if algorithm.name == "hierarchical" else 1
    return next((one, inner) for one in range(size, 1, -1) if algorithm.serves(one, inner))


@given(st.sampled_from(PAIRS), st.integers(2, 8), st.floats(1.0, 1e9))
def test_alone_they_take_their_closed_form(pair: tuple[str, str], size: int, num_bytes: float):
    name, collective = pair
    size, inner = group(ALGORITHMS[name], size)
    rounds = ALGORITHMS[name].rounds(collective, num_bytes, size, inner)
    found = play_jobs(NODE, [Job(np.arange(size), rounds)]).finish_seconds[0]
    assert found == pytest.approx(closed_form(name, collective, num_bytes, size, inner), rel=1e-6)


@given(st.sampled_from(PAIRS), st.integers(2, 16), st.floats(1.0, 1e9))
def test_every_member_gets_what_it_needs(pair: tuple[str, str], size: int, num_bytes: float):
    """Received bytes: the other members' parts at least; twice that to reduce and spread without a switch."""
    name, collective = pair
    size, inner = group(ALGORITHMS[name], size)
    rounds = ALGORITHMS[name].rounds(collective, num_bytes, size, inner)
    received, sent = np.zeros(size), np.zeros(size)
    for one in rounds:
        members = one.target != SWITCH
        np.add.at(received, one.target[members], one.repeats * one.num_bytes[members])
        members = one.source != SWITCH
        np.add.at(sent, one.source[members], one.repeats * one.num_bytes[members])
    least = num_bytes * (size - 1) / size
    if name in ("in-switch", "neighbours"):
        least = num_bytes
    elif collective == "all_reduce":
        least *= 1 if name == "tree" else 2
    assert received.sum() == pytest.approx(sent.sum())
    if name != "tree":
        assert (received >= least * (1 - 1e-12)).all()
    else:
        assert received.sum() == pytest.approx(2 * (size - 1) * num_bytes)


@given(st.sampled_from(sorted(CLUSTERS)), st.data())
def test_no_link_is_overfull_and_no_byte_is_lost(name: str, data: st.DataObject):
    net = network(name)[1]
    jobs, expected = [], np.zeros(len(net.links))
    for _ in range(data.draw(st.integers(1, 3))):
        algorithm, collective = data.draw(st.sampled_from([pair for pair in PAIRS if pair[0] != "in-switch"]))
        size, inner = group(ALGORITHMS[algorithm], data.draw(st.integers(2, min(12, net.num_devices))))
        seed, num_bytes = data.draw(st.integers(0, 99)), data.draw(st.floats(1e3, 1e9))
        ranks = np.random.default_rng(seed).permutation(net.num_devices)[:size]
        rounds = ALGORITHMS[algorithm].rounds(collective, num_bytes, size, inner)
        jobs.append(Job(ranks, rounds, data.draw(st.floats(0.0, 0.01))))
        for one in rounds:
            for hops, carried in zip(net.routes(ranks[one.source], ranks[one.target]), one.num_bytes, strict=True):
                expected[hops[hops >= 0]] += carried * one.repeats
    played = play_jobs(net, jobs)
    assert played.peak_load_fraction <= 1.0 + 1e-9
    assert played.link_bytes == pytest.approx(expected)
    assert all(np.isfinite(end) and end > job.start_seconds
               for job, end in zip(jobs, played.finish_seconds, strict=True))  # fmt: skip


def one_transfer(network: Network, background: Background | None = None, others: int = 0) -> float:
    rounds = ALGORITHMS["neighbours"].rounds("send_recv", 1e9, 2)
    jobs = [Job(np.array([0, 500]), (replace(rounds[0], source=np.array([0]), target=np.array([1]),
                                             num_bytes=np.array([1e9])),))] * (1 + others)  # fmt: skip
    return play_jobs(network, jobs, background).finish_seconds[0]


def test_jobs_and_background_traffic_share_a_link_evenly():
    alone = one_transfer(TREE)
    same = Background(np.array([0]), np.array([500]))
    assert one_transfer(TREE, others=1) == pytest.approx(2.0 * alone, rel=1e-3)
    assert one_transfer(TREE, same) == pytest.approx(2.0 * alone, rel=1e-3)
    assert one_transfer(TREE, same, others=1) == pytest.approx(3.0 * alone, rel=1e-3)


def test_a_slow_link_slows_and_a_failed_one_is_gone_around():
    alone, port = one_transfer(TREE), TREE.link("rank0:unit-leaf0")
    assert one_transfer(TREE.slowed(port, 0.25)) == pytest.approx(4.0 * alone, rel=1e-3)
    assert one_transfer(TREE.without(port)) == pytest.approx(alone, rel=1e-3)


def test_switches_add_up_only_for_their_own_members():
    with pytest.raises(ValueError, match="share one switch"):
        play_jobs(TREE, [Job(np.array([0, 500]), ALGORITHMS["in-switch"].rounds("all_reduce", 1.0, 2))])


def test_algorithms_say_what_they_run():
    with pytest.raises(ValueError, match="halving-doubling does not run all_reduce among 6"):
        ALGORITHMS["halving-doubling"].rounds("all_reduce", 1.0, 6)


@given(st.sampled_from(["dgx-h100", "gb200-nvl72", "mi325x"]), st.sampled_from([(2, 1), (8, 1), (4, 8), (16, 4)]),
       st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "send_recv"]), st.floats(1e4, 1e10))  # fmt: skip
def test_an_even_network_lets_collectives_run_at_their_price(
    name: str, group_of: tuple[int, int], collective: str, num_bytes: float
):
    (size, stride), cluster = group_of, catalog.cluster(name, 144 if name == "gb200-nvl72" else 64)
    busy = seconds_per_byte(collective, size, stride, cluster, build_network(cluster)) * num_bytes
    price = float(message_seconds(collective, num_bytes, float(size), float(stride), cluster))
    assert 0.0 < busy <= price * (1.0 + 1e-9)


TORI = {"tpu-v5p": 128, "tpu-v5e": 64, "trn2.48xlarge": 16, "inf2.48xlarge": 12}


@given(st.data(), st.sampled_from(sorted(TORI)), st.sampled_from(["all_reduce", "all_gather", "all_to_all"]))
def test_groups_on_a_torus_take_what_the_links_of_their_axes_do(data: st.DataObject, name: str, collective: str):
    cluster = catalog.cluster(name, TORI[name])
    divisors = [count for count in range(1, TORI[name] + 1) if TORI[name] % count == 0 and count % 5]
    size = data.draw(st.sampled_from([count for count in divisors if 1 < count <= MOST_PARTNERS]))
    stride = data.draw(st.sampled_from([count for count in divisors if TORI[name] % (count * size) == 0]))
    network = build_network(cluster)
    groups = np.swapaxes(np.arange(TORI[name]).reshape(-1, size, stride), 1, 2).reshape(-1, size)
    members = members_within(float(size), float(stride), cluster)
    (fraction,) = reached_fractions(collective, members, cluster.tiers)
    busy = group_loads(network, cluster, collective, groups) / network.links.bytes_per_second / fraction
    price = message_seconds(collective, 1e18, float(size), float(stride), cluster)  # latency is nothing beside it
    assert 1e18 * busy.max() == pytest.approx(float(price), rel=1e-6)


def test_a_ring_of_two_axes_has_twice_the_links_of_one():
    cluster = catalog.cluster("tpu-v5p", 64)
    line, ring, square = (
        float(message_seconds("all_reduce", 1e12, size, 1.0, cluster)) * size / (size - 1) for size in (2.0, 4.0, 16.0)
    )
    assert [line / ring, ring / square] == pytest.approx([2.0, 2.0], rel=0.2)  # larger groups reach more of the rate
    assert message_seconds("send_recv", 1e9, 2.0, 2.0, cluster) > message_seconds("send_recv", 1e9, 2.0, 1.0, cluster)


def test_a_torus_of_one_device_sends_nothing():
    alone = catalog.cluster("tpu-v5e", 1)
    assert message_seconds("all_reduce", 1e9, 1.0, 1.0, alone) == 0.0
    assert len(build_network(alone).links) == 0


def test_between_two_sites_small_messages_wait_for_the_line_and_large_ones_fill_it():
    """An all-reduce over both sites by the prices of plans, by its rounds, and by delay and bytes over the line."""
    sites = catalog.cluster(Path(__file__).parents[1] / "examples" / "two-sites-over-a-wan.toml", 64)
    network, line = build_network(sites), sites.tiers[-1]
    round_trip = 2.0 * line.latency_seconds
    shared = 32 * line.usable_bytes_per_second

    def seconds(num_bytes: float) -> tuple[float, float]:
        rounds = ALGORITHMS["hierarchical"].rounds("all_reduce", num_bytes, 64, 32)
        played = play_jobs(network, [Job(np.arange(64), rounds)]).finish_seconds[0]
        return float(message_seconds("all_reduce", num_bytes, 64.0, 1.0, sites)), played

    assert seconds(1024.0) == pytest.approx((round_trip, round_trip), rel=0.03)
    priced, played = seconds(8 * GIGA)
    over_line, inside = round_trip + 8 * GIGA / shared, 2 * 31 / 32 * 8 * GIGA / sites.tiers[1].bytes_per_second
    assert played == pytest.approx(over_line + inside, rel=0.01)  # one after the other, which prices let overlap
    assert over_line < priced < played
    hop = float(message_seconds("send_recv", 1024.0, 2.0, 32.0, sites))
    assert hop == pytest.approx(line.latency_seconds, rel=0.02)
