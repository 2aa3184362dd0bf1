"""Several models on one cluster: the cheapest placement is found, halves pair up, and what is shared is slower."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.choose.serving_replicas import Room
from planner.choose.together import Choice, placed
from planner.cost.sliced import SlicedPrices, num_bins
from planner.serving import IterationShape, Pool, ServingPlan
from profiles import catalog
from tests.cli import meshwise
from tests.linear_prices import LinearPrices

SMALL, LARGE = (Room(catalog.cluster(name, 8), None, name) for name in ("dgx-a100", "dgx-h100"))
TWO = """\
[job]
kind = "serving"
cluster = "dgx-h100"
devices = 4

[load]
requests_per_second = 4.0
requests = 300
input_tokens = 300
output_tokens = 60

[targets]
ttft_ms = 800
tpot_ms = 30

[[serving]]
name = "first"
model = "llama3.2-1b"
max_sequences = 64
token_budget = 2048
weights = "bf16"
kv_dtype = "bf16"
pp = 1

[[serving]]
name = "second"
model = "llama3.2-3b"
max_sequences = 64
token_budget = 2048
weights = "bf16"
kv_dtype = "bf16"
pp = 1

[[task]]
name = "both"
step = [{ serving = "first" }, { serving = "second", takes = "answer", added_tokens = 50 }]

[[task]]
name = "one"
step = [{ serving = "second" }]
"""


def choice(room: Room, size: int, count: int, share: float) -> Choice:
    return Choice(ServingPlan(Pool(count, tp=size, device_fraction=share, cluster=room.name)), room, 0.1, 0.01)


Choices = st.lists(
    st.builds(
        choice, st.sampled_from([SMALL, LARGE]), st.sampled_from([1, 2, 4]), st.integers(1, 5),
        st.sampled_from([1.0, 0.5]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(options=st.lists(Choices, min_size=1, max_size=3), prices=st.tuples(st.floats(0.5, 4.0), st.floats(0.5, 4.0)))
@settings(max_examples=150)
def test_the_cheapest_placement_is_that_of_trying_all(options: list[list[Choice]], prices: tuple[float, float]) -> None:
    """Costs of the best few are those of a full enumeration, and what does not fit is left out."""
    rooms = [Room(room.cluster, price, room.name) for room, price in zip((SMALL, LARGE), prices, strict=True)]
    costs = []
    for chosen in itertools.product(*options):
        halves, taken = Counter(), Counter()
        for one in chosen:
            pool = one.plan.decode
            if pool.device_fraction == 1.0:
                taken[pool.cluster] += pool.num_devices
            else:
                halves[pool.cluster, pool.tp] += pool.replicas
        for (name, size), count in halves.items():
            taken[name] += (count + 1) // 2 * size
        if all(taken[room.name] <= 8 for room in rooms):
            costs.append(sum(taken[room.name] * (room.dollars_per_device_hour or 0.0) for room in rooms))
    found = placed(options, rooms, top=3)
    assert [one.dollars_per_hour for one in found] == pytest.approx(sorted(costs)[:3])


@given(shares=st.lists(st.floats(0.05, 1.0), max_size=12))
def test_shares_find_room(shares: list[float]) -> None:
    """No fewer groups than their sum, and no more than each its own."""
    assert sum(shares) - 1e-9 <= num_bins(shares) <= len(shares)
    assert num_bins([0.5] * len(shares)) == (len(shares) + 1) // 2


def test_half_a_device_takes_twice_as_long() -> None:
    """Any iteration, and the line of decodes."""
    whole = LinearPrices()
    half = SlicedPrices(whole, 0.5)
    shape = IterationShape((100,), (20,), 3, 500.0)
    assert half.iteration_seconds(shape) == pytest.approx(2.0 * whole.iteration_seconds(shape))
    assert half.decode_line(4, 900.0).seconds(900.0) == pytest.approx(2.0 * whole.decode_line(4, 900.0).seconds(900.0))


def test_two_models_share_a_device(tmp_path: Path) -> None:
    """Both fit on one device, half of it each; the plan is simulated, saved, and plays the same; others do not fit."""
    path, saved = tmp_path / "job.toml", tmp_path / "placed.toml"
    path.write_text(TWO)
    done = meshwise("plan", str(path), "--json", "--save", str(saved))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    best = found["placements"][found["best"]]
    assert best["devices"] == {"dgx-h100": 1}
    assert [one["plan"]["decode"]["device_fraction"] for one in best["models"]] == [0.5, 0.5]
    assert best["is_met"]
    played = json.loads(meshwise("simulate", str(saved), "--json").out)
    assert played["runs"][0]["ttft_seconds"] == best["simulated"]["ttft_seconds"]
    assert "50% of each device" in meshwise("plan", str(path), "--no-simulate").out
    apart = TWO.replace("devices = 4", "devices = 1").replace("pp = 1\n", "pp = 1\ndevice_fraction = 0.7\n")
    path.write_text(apart)
    assert "1 of dgx-h100 are fewer than the 2" in meshwise("simulate", str(path)).err
    path.write_text(TWO.replace('"llama3.2-3b"', '"llama3.1-405b"'))
    none = meshwise("plan", str(path))
    assert none.code == 3
    assert "do not fit together" in none.out
