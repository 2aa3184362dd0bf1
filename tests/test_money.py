"""Bills are sums; rent, PUE and prices do what they must; buying breaks even where two bills are equal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.breakdown import Breakdown
from planner.cost.money import Bill, Rates, bill, break_even_hours, installed_watts, mean_watts, owned, rates_of, rented
from profiles import catalog
from profiles.costs import OwnershipFigures, ownership, power_shares
from profiles.offer import Offer
from profiles.site import Site, site
from profiles.units import HOUR, KWH, YEAR

SHARES, FIGURES = power_shares(), ownership()
HERE = Site(pue=1.2, dollars_per_joule=0.1 / KWH, carbon_kilograms_per_joule=0.4 / KWH)
amounts = st.floats(1e-3, 1e6)
sites = st.builds(
    Site,
    pue=st.floats(1.0, 3.0),
    dollars_per_joule=st.floats(0.01 / KWH, 1.0 / KWH),
    carbon_kilograms_per_joule=st.floats(0.0, 1.0 / KWH),
)
owners = st.builds(
    owned,
    purchase_dollars_per_device=st.floats(1e3, 1e5),
    installed_watts=st.floats(50.0, 3e3),
    figures=st.just(FIGURES),
    includes=st.sampled_from(["device", "server", "cluster"]),
)
everybody = st.one_of(owners, st.builds(rented, st.floats(1e-5, 1e-2)))


@given(seconds=amounts, watts=st.floats(10.0, 3e3), rates=everybody, here=sites)
def test_a_bill_is_the_sum_of_its_parts(seconds: float, watts: float, rates: Rates, here: Site) -> None:
    made = bill(seconds, watts, rates, here)
    assert made.total_dollars == pytest.approx(sum(made.parts().values()))
    assert all(part >= 0.0 for part in made.parts().values())
    assert made.carbon_kilograms == pytest.approx(made.energy_joules * here.carbon_kilograms_per_joule)
    twice = bill(2.0 * seconds, watts, rates, here)
    assert twice.total_dollars == pytest.approx(2.0 * made.total_dollars)


@given(price=st.floats(1e-5, 1e-2), seconds=amounts)
def test_twice_the_price_is_twice_the_rent(price: float, seconds: float) -> None:
    one, two = (bill(seconds, 700.0, rented(price * times), HERE) for times in (1.0, 2.0))
    assert two.rent_dollars == pytest.approx(2.0 * one.rent_dollars)
    assert one.total_dollars == one.rent_dollars, "rent contains all that a tenant pays"


@given(rates=everybody, more=st.floats(1.0, 2.0), watts=st.floats(10.0, 3e3))
def test_more_pue_is_never_cheaper_or_cleaner(rates: Rates, more: float, watts: float) -> None:
    less, much = (bill(HOUR, watts, rates, replace(HERE, pue=pue)) for pue in (1.1, 1.1 * more))
    assert much.total_dollars >= less.total_dollars
    assert much.energy_joules >= less.energy_joules
    assert much.carbon_kilograms >= less.carbon_kilograms


def test_bills_broadcast() -> None:
    prices, seconds = np.array([1e-3, 2e-3]), np.array([[1.0], [10.0]])
    made = bill(seconds, 700.0, rented(prices), HERE)
    assert made.total_dollars.shape == (2, 2)
    for row, column in np.ndindex(2, 2):
        alone = bill(seconds[row, 0], 700.0, rented(prices[column]), HERE)
        assert made.rent_dollars[row, column] == alone.rent_dollars


def test_a_device_hour_in_the_units_people_use() -> None:
    """An H100 at 2.49 dollars an hour, 1 kW with its host, PUE 1.2, 0.1 dollars and 400 g a kWh."""
    tenant = bill(HOUR, 1000.0, rented(2.49 / HOUR), HERE)
    assert tenant.total_dollars == pytest.approx(2.49)
    assert tenant.energy_joules == pytest.approx(1.2 * KWH)
    assert tenant.carbon_kilograms == pytest.approx(0.48)
    owner = bill(HOUR, 1000.0, Rates(pays_energy=True), HERE)
    assert owner.total_dollars == pytest.approx(0.12)


def test_depreciation_writes_off_what_is_not_left() -> None:
    """Used at its stated share through a whole life, the bill holds price less residual value, network, storage."""
    used = FIGURES.lifetime_seconds * FIGURES.utilisation_fraction
    made = bill(used, 0.0, owned(30_000.0, 0.0, FIGURES, "device"), HERE)
    server = 30_000.0 * (1.0 + FIGURES.host_fraction)
    left = 1.0 - FIGURES.residual_fraction
    assert made.hardware_dollars == pytest.approx(left * server)
    assert made.network_dollars == pytest.approx(left * server * FIGURES.network_fraction)
    assert made.embodied_kilograms == pytest.approx(FIGURES.embodied_kilograms_per_device)
    assert made.staff_dollars == pytest.approx(FIGURES.staff_dollars_per_device_second * FIGURES.lifetime_seconds)
    assert FIGURES.lifetime_seconds == pytest.approx(4 * YEAR)


@given(rent=st.floats(2e-4, 5e-3), price=st.floats(5e3, 5e4), watts=st.floats(300.0, 1500.0))
def test_buying_breaks_even_where_the_two_bills_are_equal(rent: float, price: float, watts: float) -> None:
    """At a utilisation of break-even hours over the life, owner and tenant pay the same for the same use."""
    owner = owned(price, 1000.0, FIGURES)
    hours = float(break_even_hours(rent, owner, watts, HERE, FIGURES))
    share = hours * HOUR / FIGURES.lifetime_seconds
    figures = FIGURES.model_copy(update={"utilisation_fraction": share})
    own, hired = (
        bill(hours * HOUR, watts, rates, HERE).total_dollars for rates in (owned(price, 1000.0, figures), rented(rent))
    )
    assert own == pytest.approx(hired, rel=1e-9)


def test_rent_below_the_price_of_electricity_never_breaks_even() -> None:
    owner = owned(30_000.0, 1000.0, FIGURES)
    assert np.isinf(break_even_hours(1e-6, owner, 1000.0, HERE, FIGURES))


def test_power_follows_what_devices_do() -> None:
    computing, talking, waiting = Breakdown(forward_seconds=1.0), Breakdown(dp_seconds=1.0), Breakdown(idle_seconds=1.0)
    busy, exposed, idle = (mean_watts(one, 700.0, SHARES) for one in (computing, talking, waiting))
    assert installed_watts(700.0, SHARES) > busy > exposed > idle > 700.0 * SHARES.host_fraction
    mixed = mean_watts(Breakdown(forward_seconds=1.0, backward_seconds=1.0, idle_seconds=2.0), 700.0, SHARES)
    assert mixed == pytest.approx((busy + idle) / 2.0)


def test_a_node_of_h100_draws_what_was_measured() -> None:
    """Newkirk 2025: 76 % of 10.2 kW when it computes hard; Latif 2024: never above 8.4 kW."""
    node = 8 * mean_watts(Breakdown(forward_seconds=1.0), catalog.accelerator("h100-sxm").power_watts, SHARES)
    assert node == pytest.approx(0.76 * 10_200, rel=0.03)
    assert node < 8_400


@pytest.mark.parametrize("name", ["aws-p5.48xlarge-on-demand-us-east-1", "buy-dgx-h100", "buy-h100-pcie"])
def test_offers_have_rates(name: str) -> None:
    offer = catalog.offer(name)
    rates = rates_of(offer, 1000.0, FIGURES)
    made: Bill = bill(HOUR, 900.0, rates, _site_of(offer))
    assert (made.rent_dollars > 0.0) == (offer.terms != "purchase")
    assert (made.hardware_dollars > 0.0) == (offer.terms == "purchase")
    assert 0.2 < made.total_dollars < 20.0


def _site_of(offer: Offer) -> Site:
    return site(offer.provider, offer.region, offer.country)


def test_places_fall_back_to_what_is_around_them() -> None:
    assert site("AWS", "us-east-1").assumed == ()
    assert site("AWS", "us-east-1").carbon_kilograms_per_joule == pytest.approx(0.3678 / KWH)
    finland = site(country="finland")
    assert finland.assumed == ("PUE of the industry",)
    assert finland.dollars_per_joule == pytest.approx(0.096 / KWH)
    assert len(site().assumed) == 3
    mine = site("AWS", "us-east-1", pue=1.05, dollars_per_joule=1.0, carbon_kilograms_per_joule=2.0)
    assert (mine.pue, mine.dollars_per_joule, mine.carbon_kilograms_per_joule, mine.sources) == (1.05, 1.0, 2.0, ())


def test_every_rented_offer_stands_somewhere() -> None:
    rents = [offer for offer in map(catalog.offer, catalog.names("offers")) if offer.terms != "purchase"]
    nowhere = [one.name for one in rents if "carbon intensity of the world" in _site_of(one).assumed]
    assert nowhere == []


def test_figures_of_ownership_can_be_replaced() -> None:
    cheap = OwnershipFigures.model_validate(FIGURES.model_dump() | {"residual_fraction": 1.0})
    assert bill(HOUR, 0.0, owned(30_000.0, 0.0, cheap), HERE).hardware_dollars == 0.0
