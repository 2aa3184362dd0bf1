"""Fleets for a load that changes by the hour: counts, ways to pay, risk, what is left for training, and the command."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwise.serving import jobfile
from meshwise.serving.capacity import busy_hour
from meshwise.serving.capacity.answering import ServingCapacityAnswer, answer, kind_of
from meshwise.serving.capacity.day import hourly_rates
from meshwise.serving.jobfile import LoadTable
from planner.choose.serving_capacity import counts
from planner.choose.serving_capacity.beside import TrainingPace, best_shared
from planner.choose.serving_capacity.option import AUTOSCALED, BASE_AND_PEAK, PART_SPOT, STATIC
from profiles.prices import parse_offers
from profiles.units import DAY, HOUR
from tests.cli import meshwise

JOB = """\
[job]
kind = "serving"

[load]
requests_per_second = 200.0
requests = 500
input_tokens = 800
output_tokens = 100

[targets]
ttft_ms = 600
tpot_ms = 25

[serving]
model = "llama3.1-8b"
weights = "fp8"
kv_dtype = "bf16"
pp = 1
token_budget = 8192

[capacity]
hourly = [0.2, 0.2, 0.5, 1.0, 2.0, 1.5, 1.0, 0.5]
spot_fraction = 0.5
"""


OFFERS = {
    "offers": [
        {"name": f"h100-{terms}", "provider": "us", "accelerator": "h100-sxm", "cluster": "dgx-h100", "terms": terms}
        | {"region": "here", "instance": "one", "dollars_per_device_hour": price}
        | ({"interruptions_per_instance_hour": 0.1} if terms == "spot" else {})
        for terms, price in (("on-demand", 2.0), ("reserved", 1.2), ("spot", 0.8))
    ]
}
Numbers = st.lists(st.integers(1, 60), min_size=1, max_size=24).map(lambda found: np.array(found, dtype=float))


@pytest.fixture(scope="module", autouse=True)
def _short_hours() -> Iterator[None]:
    """Of an hour only its beginning is played, which is enough to tell ways to pay apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(busy_hour, "MOST_REQUESTS", 2000)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> jobfile.ServingFile:
    """A small job."""
    path = tmp_path_factory.mktemp("job") / "job.toml"
    path.write_text(JOB)
    return jobfile.read(path, needs_cluster=False)


def asked(file: jobfile.ServingFile, price: float = 1.0, **changes: object) -> ServingCapacityAnswer:
    """The answer with some fields of [capacity] changed, and all prices times a factor."""
    offers = [dict(one, dollars_per_device_hour=price * one["dollars_per_device_hour"]) for one in OFFERS["offers"]]
    assert file.capacity is not None
    table = file.capacity.model_copy(update=changes)
    return answer(file, table, parse_offers({"offers": offers}, "a test"))


@pytest.fixture(scope="module")
def found(file: jobfile.ServingFile) -> ServingCapacityAnswer:
    """Its answer."""
    return asked(file)


@given(needed=Numbers, startup=st.floats(0.0, HOUR))
def test_replicas_that_come_and_go_cost_no_more_than_static_ones(needed: np.ndarray, startup: float) -> None:
    """Between the hours that answer and those of the peak; without a start-up time exactly the former."""
    paid, held = counts.autoscaled(needed, startup), counts.static(needed)
    assert np.all(needed <= paid)
    assert np.all(paid <= held + 1e-9)
    assert np.array_equal(counts.autoscaled(needed, 0.0), needed)
    assert set(held) == {needed.max()}


@given(needed=Numbers, each=st.sampled_from([1, 2, 4, 8, 16, 64]), instance=st.sampled_from([1, 4, 8, 72]))
def test_devices_come_in_whole_instances(needed: np.ndarray, each: int, instance: int) -> None:
    """Enough for all replicas, none of which is cut in two, and no instance to spare."""
    found = counts.devices(needed, each, instance)
    assert np.all(found % instance == 0.0)
    assert np.all(found >= needed * each)
    hosted = np.maximum(instance // each, 1) * found / instance / np.ceil(each / instance)
    assert np.all(hosted >= needed)
    assert np.all(hosted - np.maximum(instance // each, 1) < needed)


@given(needed=Numbers, fraction=st.floats(0.0, 1.0), up=st.floats(0.5, 1.0))
def test_spot_replicas_are_held_for_those_that_are_away(needed: np.ndarray, fraction: float, up: float) -> None:
    """As many answer on average as are needed; spares make a shortage less likely."""
    stay, spot = counts.spot_share(needed, fraction, up)
    assert np.all(stay + spot * up >= needed - 1e-9)
    assert np.all(needed - stay <= fraction * needed)
    chances = [counts.chance_short(20.0 + spare, 20.0, up) for spare in (0.0, 1.0, 4.0)]
    assert chances == sorted(chances, reverse=True)


def test_hours_of_a_load(tmp_path: Path) -> None:
    """Factors, a sine, a trace and a constant: each keeps its mean."""
    steady = {"requests_per_second": 4.0, "input_tokens": 9, "output_tokens": 9}
    assert hourly_rates(LoadTable(**steady), ()).tolist() == [4.0]
    assert hourly_rates(LoadTable(**steady), (0.5, 2.0)).tolist() == [2.0, 8.0]
    sine = hourly_rates(LoadTable(**steady, arrivals="diurnal", peak_ratio=1.8), ())
    assert (len(sine), sine.mean()) == (24, pytest.approx(4.0))
    assert sine.max() == pytest.approx(1.8 * 4.0, rel=0.01)
    trace = tmp_path / "trace.csv"
    seconds = [*np.linspace(0.0, HOUR - 1.0, 360), *np.linspace(HOUR, 2.0 * HOUR, 720)]
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{at:.3f},10,10\n" for at in seconds))
    assert hourly_rates(LoadTable(trace=str(trace)), ()).tolist() == pytest.approx([0.1, 0.2], rel=0.01)


def test_every_way_to_pay(found: ServingCapacityAnswer) -> None:
    """Bills are sums, intervals hold their figure, and no way costs more than the one it improves."""
    ways = {(one.lines[0].offer.terms, one.how): one for one in found.options}
    assert set(ways) == {
        ("on-demand", STATIC), ("on-demand", AUTOSCALED), ("on-demand", PART_SPOT), ("reserved", STATIC),
        ("reserved", BASE_AND_PEAK),
    }  # fmt: skip
    for one in found.options:
        assert one.dollars == pytest.approx(sum(one.bill.parts().values()))
        assert one.low_dollars <= one.dollars <= one.high_dollars
        assert 0.0 <= one.risk_fraction <= 0.1
        prices = {line.offer.name: line.offer.dollars_per_device_hour or 0.0 for line in one.lines}
        assert one.dollars == pytest.approx(sum(prices[line.offer.name] * line.devices.sum() for line in one.lines))
        assert one.bill.energy_joules > 0.0
    scaled = ways["on-demand", AUTOSCALED]
    assert scaled.dollars < ways["on-demand", STATIC].dollars
    assert ways["on-demand", PART_SPOT].dollars < scaled.dollars
    assert ways["reserved", BASE_AND_PEAK].dollars <= min(ways["reserved", STATIC].dollars, scaled.dollars)
    assert [one.dollars for one in found.options] == sorted(one.dollars for one in found.options)


def test_the_best_was_played_and_holds(found: ServingCapacityAnswer) -> None:
    """The cheapest option's busiest hour meets the targets in the simulator, with the replicas that are billed."""
    best = found.best
    assert best is found.options[0]
    played = found.played(best)
    assert played is not None
    assert played.is_met
    assert played.figures.attained_fraction.value >= 0.99
    assert kind_of(played.deployment) == kind_of(best.deployment)
    tokens = 200.0 * sum((0.2, 0.2, 0.5, 1.0, 2.0, 1.5, 1.0, 0.5)) * HOUR * found.day.output_tokens
    assert best.dollars_per_million_output_tokens == pytest.approx(best.dollars / tokens * 1e6)


def test_what_is_asked_changes_the_answer(file: jobfile.ServingFile, found: ServingCapacityAnswer) -> None:
    """Twice the price is twice the bill; less risk, more room, or slower starts never cost less; no spot, no spot."""
    best = found.best
    assert best is not None
    assert asked(file, price=2.0).options[0].dollars == pytest.approx(2.0 * best.dollars)
    careful = asked(file, max_risk=0.001)
    assert careful.options[0].dollars > best.dollars
    assert careful.options[0].risk_fraction <= 0.001
    assert asked(file, headroom=1.0).options[0].dollars > 1.3 * best.dollars  # in whole replicas
    assert asked(file, startup_seconds=1800.0).options[0].dollars > best.dollars
    assert all(one.how != PART_SPOT for one in asked(file, spot_fraction=0.0).options)
    only = asked(file, spot_fraction=1.0).options
    assert {line.offer.terms for line in only[0].lines if line.devices.any()} == {"spot"}


def test_an_offer_that_cannot_serve_says_why(file: jobfile.ServingFile) -> None:
    """A model that does not fit, and targets that an idle replica misses."""
    offers = [dict(OFFERS["offers"][0], name="t4s", accelerator="t4", cluster="g4dn.12xlarge")]
    assert file.capacity is not None
    large = file.model_copy(update={"serving": (file.serving[0].model_copy(update={"model": "llama3.1-405b"}),)})
    none = answer(large, file.capacity, parse_offers({"offers": offers}, "a test"))
    assert (none.options, none.best) == ((), None)
    assert "weights leave no room" in none.refused["t4s"] or "no peak" in none.refused["t4s"]
    hasty = file.model_copy(update={"targets": file.targets.model_copy(update={"tpot_seconds": 1e-5})})
    missed = answer(hasty, file.capacity, parse_offers(OFFERS, "a test"))
    assert set(missed.refused.values()) == {"an idle replica misses the targets"}


def test_a_replica_lies_within_an_instance(file: jobfile.ServingFile) -> None:
    """Where single devices are rented, no replica has two; on hosts it may, and a model that needs two is refused."""
    assert file.capacity is not None
    large = file.model_copy(update={"serving": (file.serving[0].model_copy(update={"model": "llama3.1-70b"}),)})
    single, host = (
        dict(OFFERS["offers"][0], name=name, max_devices=most) for name, most in (("single", 1), ("host", 8))
    )
    offers = parse_offers({"offers": [single, host]}, "a test")
    found = answer(large, file.capacity, offers)
    sizes = {one.offer.name: max(each.num_devices for each in one.deployment.replicas) for one in found.options}
    assert sizes["host"] > 1
    assert sizes.get("single", 1) == 1
    wide = large.model_copy(update={"serving": (large.serving[0].model_copy(update={"tp": 4}),)})
    assert "more than the 1 devices" in answer(wide, file.capacity, offers).refused["single"]


@given(
    free=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 32), min_size=1, max_size=3, unique=True),
    pause=st.floats(0.0, 2.0 * HOUR),
)
def test_training_beside_serving_is_the_best_cap(free: list[int], sizes: list[int], pause: float) -> None:
    """As an hour-by-hour count for every cap says; never more devices than are free; changes cost, up to their hour."""
    paces = [TrainingPace(size, float(size) ** 0.9, pause) for size in sizes]
    found = best_shared(np.array(free, dtype=float), paces)
    assert np.all(found.devices <= np.array(free))
    speeds = {0: 0.0} | {pace.num_devices: pace.tokens_per_second for pace in paces}

    def tokens(cap: int) -> float:
        hours = [max((size for size in speeds if size <= min(left, cap)), default=0) for left in free]
        before = [hours[-1], *hours[:-1]]
        stands = [min(pause, HOUR) * (now != then) * (now > 0) for now, then in zip(hours, before, strict=True)]
        return sum(speeds[now] * (HOUR - stand) for now, stand in zip(hours, stands, strict=True))

    best = max(tokens(cap) for cap in speeds)
    assert found.tokens_per_day == pytest.approx(best * DAY / HOUR / len(free))
    smooth = best_shared(np.array(free, dtype=float), [replace(pace, resize_seconds=0.0) for pace in paces])
    assert smooth.tokens_per_day >= found.tokens_per_day
    assert all(earlier <= later for earlier, later in itertools.pairwise(sorted(speeds)))


def test_the_command(tmp_path: Path) -> None:
    """Offers of one's own, options that win, stable keys; what has no sense is one sentence."""
    own = "\n".join(
        f"[[offers]]\n{''.join(f'{name} = {json.dumps(value)}' + chr(10) for name, value in one.items())}"
        for one in OFFERS["offers"][:2]
    )
    (tmp_path / "train.toml").write_text('[job]\nmodel = "llama3.2-1b"\nglobal_batch = 64\nsequence_length = 2048\n')
    path = tmp_path / "job.toml"
    path.write_text(JOB + 'providers = "us"\ntraining = { job = "train.toml", tokens = 1e9 }\n\n' + own)
    done = meshwise("capacity", str(path), "--json", "--terms", "reserved")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert {one["offer"] for one in found["options"]} == {"h100-reserved"}
    assert found["best"]["busiest_hour"]["is_met"]
    assert found["best"]["dollars"] == pytest.approx(sum(found["best"]["dollars_by_part"].values()))
    training = found["training"]
    assert training["days"] == pytest.approx(1e9 / training["tokens_per_day"])
    assert all(mine <= free for mine, free in zip(training["training_devices"], training["free_devices"], strict=True))
    shown = meshwise("capacity", str(path), "--terms", "reserved")
    for words in ("h100-reserved", "replicas by hour", "busiest hour played", "training beside serving"):
        assert words in shown.out
    for option, sentence in (
        (("--deadline", "30d"), "deadline: an option of training jobs"),
        (("--workers", "2"), "workers: an option of training jobs"),
        (("--providers", "nobody"), "no offer has 'nobody'"),
        (("--max-risk", "0"), "max_risk"),
    ):
        refused = meshwise("capacity", str(path), *option)
        assert refused.code == 2
        assert sentence in refused.err
    path.write_text(JOB.replace('kind = "serving"', 'kind = "serving"\ncluster = "dgx-h100"'))
    assert "offers say what there is" in meshwise("capacity", str(path)).err
    path.write_text(JOB)
    assert "job.cluster: none given" in meshwise("simulate", str(path)).err
