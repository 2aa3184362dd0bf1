"""`--offer`, `--price` and `[money]` on plan, estimate and simulate: dollars, energy and CO2 of what is priced."""

import json
from functools import partial
from pathlib import Path

import pytest

from meshwise.money.table import MoneyTable
from meshwise.money.terms import MoneyAsked, bills, read, terms_of
from planner.breakdown import Breakdown
from planner.choose.search import search
from planner.cost.estimate import estimate
from profiles import catalog
from profiles.units import HOUR, KWH, TERA
from tests.cli import faults, meshwise
from tests.scenes import cluster, job, stack

SPLIT = ("--model", "llama3-8b", "--devices", "8", "--tp", "2", "--global-batch", "64")
H100 = "aws-p5.48xlarge-on-demand-us-east-1"


def answered(*arguments: str) -> dict[str, object]:
    result = meshwise(*arguments, "--json")
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def test_an_offer_names_the_cluster_and_prices_the_step() -> None:
    found = answered("estimate", *SPLIT, "--offer", H100, "--tokens", "1T")
    assert found["job"]["cluster"] == "p5.48xlarge"
    money = found["money"]
    rent = found["step_seconds"] * 8 * 6.88 / HOUR
    assert money["step"]["total_dollars"] == pytest.approx(rent)
    assert sum(money["step"]["dollars"].values()) == pytest.approx(rent)
    assert money["whole"]["total_dollars"] == pytest.approx(TERA / found["tokens_per_second"] * 8 * 6.88 / HOUR)
    assert money["per_million"]["total_dollars"] * 1e6 == pytest.approx(money["whole"]["total_dollars"])
    assert 8 * 300 < money["step"]["energy_joules"] / found["step_seconds"] < 8 * 1500


def test_a_price_of_ones_own_and_no_place() -> None:
    found = answered("estimate", *SPLIT, "--cluster", "dgx-h100", "--price", "2.49")
    assert found["money"]["step"]["total_dollars"] == pytest.approx(found["step_seconds"] * 8 * 2.49 / HOUR)
    assert len(found["money"]["site"]["assumed"]) == 3
    assert found["money"]["whole"] is None


def test_no_money_unless_asked() -> None:
    assert answered("estimate", *SPLIT, "--cluster", "dgx-h100")["money"] is None


def test_weeks_of_a_run_pay_for_the_time_that_is_lost() -> None:
    on = ("simulate", *SPLIT, "--offer", H100, "--tokens", "1T")
    plain = answered(*on)["money"]
    weeks = answered(*on, "--days", "30", "--runs", "4")
    useful = weeks["long_run"]["simulated_fractions"]["useful"]["mean"]
    assert weeks["money"]["useful_fraction"] == pytest.approx(useful)
    assert weeks["money"]["whole"]["total_dollars"] == pytest.approx(plain["whole"]["total_dollars"] / useful)


def test_a_job_file_states_prices_and_offers(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("""
[job]
model = "llama3-8b"
devices = 8
global_batch = 64

[split]
tp = 2

[money]
offer = "our room"
tokens = "15T"
electricity_dollars_per_kwh = 0.05
lifetime_years = 5
utilisation_fraction = 1.0

[[offers]]
name = "our room"
accelerator = "h100-sxm"
cluster = "dgx-h100"
terms = "purchase"
purchase_dollars_per_device = 30000
includes = "device"
country = "Sweden"
""")
    money = answered("estimate", str(file))["money"]
    assert money["terms"] == "purchase"
    assert money["site"]["dollars_per_joule"] == pytest.approx(0.05 / KWH)
    assert money["step"]["dollars"]["hardware"] > 0.0
    dearer = answered("estimate", str(file), "--electricity-dollars-per-kwh", "0.1")["money"]
    assert dearer["step"]["dollars"]["energy"] == pytest.approx(2.0 * money["step"]["dollars"]["energy"])
    assert dearer["step"]["dollars"]["hardware"] == money["step"]["dollars"]["hardware"]
    rented = answered("estimate", str(file), "--cluster", "dgx-h100", "--price", "2")["money"]
    assert rented["step"]["dollars"]["rent"] == rented["step"]["total_dollars"]
    said = meshwise("estimate", str(file)).out
    assert "our room (own, Sweden, no date" in said
    assert "15 T tokens" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--offer", "aws-p9"), "no offer is called 'aws-p9'"),
        (("--offer", H100, "--price", "2"), "give an offer (--offer NAME) or a price (--price DOLLARS), got both"),
        (("--tokens", "15T"), "got neither"),
        (("--price", "-1"), "price must be greater than 0, got -1"),
        (("--price", "2", "--tokens", "much"), "tokens: 'much' is not an amount, e.g. 15T"),
        (("--price", "2", "--country", "Atlantis"), "country: nothing is known of 'Atlantis'"),
        (("--price", "2", "--pue", "0.5"), "pue must be greater than or equal to 1"),
        (("--offer", "gcp-tpu-v5p-on-demand-us-east1"), "is of tpu-v5p, and the cluster has h100-sxm"),
        (("--offer", "nebius-gpu-h100-sxm-1gpu-on-demand-eu-north1"), "at most 1 in one cluster, got 8"),
    ],
)
def test_faults_are_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = meshwise("estimate", *SPLIT, "--cluster", "dgx-h100", *arguments)
    assert faults(result) == []
    assert sentence in result.err


def test_a_price_list_alone_prices_nothing(tmp_path: Path) -> None:
    file = tmp_path / "offers.toml"
    file.write_text('[[offers]]\naccelerator = "h100-sxm"\ncluster = "dgx-h100"\nterms = "on-demand"\n'
                    "dollars_per_device_hour = 2\n")  # fmt: skip
    result = meshwise("estimate", *SPLIT, "--cluster", "dgx-h100", "--offers", str(file))
    assert faults(result) == []
    assert "--offer own-h100-sxm-on-demand" in result.err
    file.write_text("offers = []\n")
    assert "the list is empty" in meshwise("estimate", *SPLIT, "--offers", str(file), "--offer", "x").err


def test_an_objective_of_dollars_needs_a_price() -> None:
    result = meshwise("plan", *SPLIT[:4], "--cluster", "dgx-h100", "--objective", "dollars")
    assert faults(result) == []
    assert "give one (--offer NAME or --price DOLLARS)" in result.err


def test_dollars_take_the_place_of_device_hours() -> None:
    on = ("plan", *SPLIT[:2], "--offer", H100, "--devices", "8", "--no-simulate", "--top", "1", "--scale", "8,16")
    scaled = answered(*on)["scaling"]
    for one in scaled:
        assert one["dollars_per_tera"] == pytest.approx(6.88 * one["device_hours_per_tera"])
    assert "device-hours" not in meshwise(*on).out


def test_ranking_by_dollars_is_that_of_pricing_every_plan() -> None:
    """The bound drops no plan that is cheaper, even where electricity is dear enough to prefer a slower one."""
    work, here, software = job("llama3-8b", global_batch=64), cluster(16), stack()
    table = MoneyTable(offer="buy-dgx-h100", electricity_dollars_per_kwh=20.0)
    price = terms_of(MoneyAsked(table, ()), _question())
    assert price is not None
    look = partial(search, work, here, software, objective="dollars", dollars=price.dollars, top=5)
    bounded, everything = look(), look(wants_front=True)
    assert [one.plan for one in bounded.candidates] == [one.plan for one in everything.candidates]
    costs = [float(price.dollars(one.breakdown)) for one in bounded.candidates]
    assert costs == sorted(costs)
    assert bounded.num_estimated < everything.num_estimated
    fastest = search(work, here, software, top=5).candidates[0]
    assert costs[0] <= float(price.dollars(estimate(fastest.plan, work, here, software).breakdown))


def _question() -> object:
    from meshwise.jobfile import JobTable, question

    return question(JobTable(model="llama3-8b", cluster="dgx-h100", devices=16))


def test_power_that_nobody_published_is_said() -> None:
    offer = "gcp-tpu7x-on-demand-us-central1"
    assert catalog.accelerator("tpu-7x").power_watts is None
    on = ("estimate", "--model", "llama3-8b", "--offer", offer, "--devices", "8", "--tp", "8")
    assert answered(*on)["money"]["step"]["energy_joules"] is None
    assert "device_watts in [money]" in meshwise(*on).out


def test_bills_without_tokens_are_two() -> None:
    asked = read(None, {"price": 2.0})
    found = terms_of(asked, _question())
    assert len(bills(found, Breakdown(forward_seconds=1.0), _question())) == 2
