"""Every offer names what it is made of, its price is plausible, and users can add and replace offers."""

from pathlib import Path

import pytest

from profiles import catalog, prices
from profiles.files import BadFile
from profiles.offer import Offer, PriceList
from profiles.units import HOUR

OFFERS = [catalog.offer(name) for name in catalog.names("offers")]

OWN = """
[[offers]]
name = "our-room"
accelerator = "h100-sxm"
cluster = "dgx-h100"
terms = "on-demand"
dollars_per_device_hour = 2.49
"""


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.name)
def test_an_offer_is_built_from_a_cluster_of_its_accelerator(offer: Offer) -> None:
    cluster = catalog.cluster(offer.cluster, offer.devices_per_instance)
    assert cluster.accelerator.name == offer.accelerator
    assert offer.allows(offer.devices_per_instance)
    assert offer.as_of
    assert offer.provider
    if offer.max_devices is not None:
        assert catalog.cluster(offer.cluster, offer.max_devices).num_devices == offer.max_devices


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.name)
def test_prices_are_plausible(offer: Offer) -> None:
    """A device costs cents to tens of dollars an hour, and thousands to buy; no rent buys it within three months."""
    if offer.terms == "purchase":
        assert 1_000 <= offer.purchase_dollars_per_device <= 100_000
    else:
        assert 0.1 <= offer.dollars_per_device_hour <= 20.0
        bought = [one for one in OFFERS if one.terms == "purchase" and one.accelerator == offer.accelerator]
        for one in bought:
            assert one.purchase_dollars_per_device > 90 * 24 * offer.dollars_per_device_hour


def test_the_catalog_spans_kinds_of_accelerators() -> None:
    priced = {offer.accelerator for offer in OFFERS}
    assert len(priced) >= 20
    assert {"v100-sxm-32gb", "a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm", "gb200", "mi300x", "tpu-v5p", "t4",
            "trainium1", "gaudi3"} <= priced  # fmt: skip


def test_spot_is_cheaper_than_on_demand_and_is_taken_back() -> None:
    by_name = {offer.name: offer for offer in OFFERS}
    for offer in OFFERS:
        assert (offer.interruptions_per_device_second > 0.0) == (offer.terms == "spot")
        twin = by_name.get(offer.name.replace("-spot", "-on-demand"))
        if offer.terms == "spot" and twin is not None:
            assert offer.dollars_per_device_second < twin.dollars_per_device_second


def test_rates_are_by_the_second() -> None:
    (offer,) = prices.parse_offers({"offers": [_entry(terms="spot", interruptions_per_instance_hour=0.5)]}, "a test")
    assert offer.dollars_per_device_second == pytest.approx(2.0 / HOUR)
    assert offer.dollars_per_device_hour == pytest.approx(2.0)
    assert offer.interruptions_per_device_second * HOUR == pytest.approx(0.5 / 8)
    assert offer.name == "own-h100-sxm-spot"
    assert "a test" in offer.source


def test_a_user_adds_and_replaces_offers(tmp_path: Path) -> None:
    file = tmp_path / "offers.toml"
    file.write_text(OWN + OWN.replace("our-room", OFFERS[0].name), encoding="utf-8")
    own = prices.read_offers(file)
    assert len(prices.offers(own)) == len(OFFERS) + 1
    assert prices.offer("Our Room", own).dollars_per_device_hour == pytest.approx(2.49)
    assert prices.offer(OFFERS[0].name, own).provider == "own"


def test_an_unknown_offer_is_answered_with_near_ones() -> None:
    with pytest.raises(catalog.UnknownName, match=r"close names: aws-p5\.48xlarge"):
        catalog.offer("p5.48xlarge")


def _entry(**changes: object) -> dict[str, object]:
    usual = {"accelerator": "h100-sxm", "cluster": "dgx-h100", "terms": "on-demand", "dollars_per_device_hour": 2.0}
    return usual | {"devices_per_instance": 8} | changes


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (_entry(terms="lease"), r"offers\.0\.terms must be .*on-demand.*got 'lease'"),
        (_entry(dollars_per_device_hour=-1), r"offers\.0\.dollars_per_device_second must be greater than 0, got"),
        (_entry(terms="spot"), r"offers\.0: interruptions_per_instance_hour: terms are 'spot', and it is missing"),
        (_entry(terms="purchase"), r"dollars_per_device_hour: terms are 'purchase', and it does not belong there"),
        (_entry(commitment_days=365), r"commitment_days: terms are 'on-demand'; only reserved"),
        (_entry(max_devices=4), r"max_devices: must be at least devices_per_instance 8, got 4"),
        (_entry(as_of="last year"), r"offers\.0\.as_of"),
    ],
)
def test_a_faulty_offer_is_named(entry: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadFile, match=sentence):
        prices.parse_offers({"offers": [entry]}, "own.toml")


def test_two_offers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two are called 'own-h100-sxm-on-demand'"):
        PriceList.model_validate({"name": "own", "source": "a test", "provider": "own", "offers": [_entry(), _entry()]})
