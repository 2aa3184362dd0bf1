"""What options come to, how they rank, and what moves them which way."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.choose.capacity.affordable import largest
from planner.choose.capacity.answer import Ranking, cheapest, rank
from planner.choose.capacity.breakeven import break_evens
from planner.choose.capacity.chances import choice_fractions
from planner.choose.capacity.demand import Demand
from planner.choose.capacity.option import Option
from planner.choose.capacity.pace import NoPace
from planner.choose.capacity.risk import chance_above, interruption_spread, log_spread
from planner.choose.capacity.scaling import BEND_FRACTION, curve
from planner.choose.capacity.whatif import WhatIf, what_ifs
from planner.cost.goodput import Checkpoints, Interruptions
from profiles.offer import Offer
from profiles.units import DAY, HOUR
from tests.capacity_cases import COUNTS, demand, pace, paces, purchase, rent

FACTORS = st.floats(0.1, 10.0)


def ranked(offers: list[Offer], asked: Demand) -> Ranking:
    clusters = sorted({one.cluster for one in offers})
    return rank(offers, {one.name: COUNTS for one in offers}, paces(*clusters, slower=1.3), asked)


def by_key(ranking: Ranking) -> dict[tuple[str, int], Option]:
    return {one.key: one for one in ranking.options}


@given(price=FACTORS, factor=st.floats(1.0, 5.0))
@settings(max_examples=20)
def test_a_cheaper_price_never_costs_more(price: float, factor: float) -> None:
    offers = [rent(dollars_per_hour=price), purchase(price=10_000.0 * price)]
    cheap, dear = (by_key(ranked(offers, demand(price_factor=one))) for one in (1.0, factor))
    for key, one in cheap.items():
        assert one.dollars <= dear[key].dollars * (1.0 + 1e-12)
        assert one.low_dollars <= one.dollars <= one.high_dollars


@given(days=st.floats(1.0, 400.0), later=st.floats(1.0, 4.0))
@settings(max_examples=20)
def test_a_later_deadline_never_raises_risk_nor_the_cheapest_cost(days: float, later: float) -> None:
    offers = [rent(), rent("other", cluster="slow", dollars_per_hour=1.0)]
    first, second = (ranked(offers, demand(deadline_seconds=one * DAY)) for one in (days, days * later))
    for key, one in by_key(first).items():
        assert by_key(second)[key].late_fraction <= one.late_fraction
    if first.best is not None:
        assert second.best is not None
        assert second.best.dollars <= first.best.dollars


@given(factor=st.floats(1.0, 50.0), terms=st.sampled_from(["on-demand", "spot"]))
@settings(max_examples=20)
def test_more_failures_never_help(factor: float, terms: str) -> None:
    taken_back = {"interruptions_per_instance_second": 0.01 / HOUR} if terms == "spot" else {}
    offers = [rent(terms=terms, devices_per_instance=8, **taken_back)]
    few, many = (by_key(ranked(offers, demand(failure_factor=one))) for one in (1.0, factor))
    for key, one in few.items():
        assert many[key].run.goodput.useful_fraction <= one.run.goodput.useful_fraction * (1.0 + 1e-9)
        assert many[key].days >= one.days * (1.0 - 1e-9)


def test_nothing_on_the_front_is_beaten_and_all_else_is() -> None:
    ranking = ranked([rent(), rent("other", cluster="slow", dollars_per_hour=1.7), purchase()], demand())
    costs = {one.key: np.array([one.dollars, one.days, round(one.risk_fraction, 3)]) for one in ranking.options}
    for key, mine in costs.items():
        beaten = any(bool(np.all(other <= mine) and np.any(other < mine)) for other in costs.values())
        assert beaten == (key not in ranking.front)


def test_a_bill_is_the_sum_of_its_parts_and_what_is_bought_needs_an_outlay() -> None:
    bought, rented = purchase(price=30_000.0), rent()
    options = by_key(ranked([bought, rented], demand()))
    for one in options.values():
        assert one.dollars == pytest.approx(sum(one.bill.parts().values()))
    figures = demand().ownership
    around = 1.0 + figures.network_fraction + figures.storage_fraction
    assert options["bought", 64].outlay_dollars == pytest.approx(64 * 1.05 * 30_000.0 * around)
    tight = by_key(ranked([bought], demand(budget_dollars=1e6)))["bought", 64]
    assert "outlay" in tight.shortfall
    assert tight.dollars < 1e6
    assert options["rented", 64].outlay_dollars == 0.0
    hours = options["rented", 64].run.seconds / HOUR
    assert options["rented", 64].dollars == pytest.approx(64 * hours * 2.0)


def test_devices_that_are_committed_to_are_paid_for_whole() -> None:
    held = rent("held", terms="reserved", commitment_seconds=1000 * DAY)
    one = by_key(ranked([held], demand(budget_dollars=1e9)))["held", 512]
    assert one.days < 100
    assert one.dollars == pytest.approx(512 * 1.05 * 1000 * 24 * 2.0)
    assert one.low_dollars == one.high_dollars == one.dollars
    assert one.dear_fraction == 0.0
    assert by_key(ranked([held], demand(budget_dollars=1e6)))["held", 512].dear_fraction == 1.0


def test_options_rank_by_cost_among_those_that_do_and_say_why_the_others_do_not() -> None:
    ranking = ranked([rent(), rent("other", cluster="slow", dollars_per_hour=1.0)], demand())
    assert ranking.best is ranking.options[0]
    good = [one.dollars for one in ranking.good]
    assert good == sorted(good)
    assert all(one.shortfall for one in ranking.options[len(good) :])
    slow = by_key(ranked([rent()], demand(deadline_seconds=10 * DAY)))["rented", 64]
    assert slow.shortfall.startswith("too slow")
    assert "; too dear: " in by_key(ranked([rent()], demand(budget_dollars=1.0)))["rented", 64].shortfall
    edge = by_key(ranked([rent()], demand(deadline_seconds=slow.run.seconds * 1.01)))["rented", 64]
    assert edge.shortfall.startswith("too risky: late")
    tight = by_key(ranked([rent()], demand(budget_dollars=edge.dollars * 1.01, deadline_seconds=np.inf)))["rented", 64]
    assert tight.shortfall.startswith("too risky: over the budget")


def test_the_nearest_misses_are_shown_where_nothing_will_do() -> None:
    ranking = ranked([rent()], demand(deadline_seconds=DAY))
    assert ranking.best is None
    assert ranking.nearest[0].num_devices == max(COUNTS)
    assert ranked([rent()], demand()).nearest == ()


def test_the_smallest_cluster_of_each_accelerator_is_found() -> None:
    offers = [rent(), rent("dear", dollars_per_hour=9.0), rent("a100", cluster="slow", accelerator="a100-sxm-80gb")]
    smallest = ranked(offers, demand(deadline_seconds=40 * DAY)).smallest
    assert [one.offer.accelerator for one in smallest].count("h100-sxm") == 1
    h100 = next(one for one in smallest if one.offer.accelerator == "h100-sxm")
    fits = [
        one.num_devices for one in ranked(offers, demand(deadline_seconds=40 * DAY)).good if one.offer.name == "rented"
    ]
    assert (h100.offer.name, h100.num_devices) == ("rented", min(fits))


def test_a_job_that_is_always_interrupted_never_ends() -> None:
    spot = rent(terms="spot", interruptions_per_instance_second=1.0)
    one = ranked([spot], demand()).options[0]
    assert one.shortfall.startswith("never ends")
    assert (one.days, one.dollars, one.late_fraction) == (np.inf, np.inf, 1.0)


def test_an_offer_that_nothing_fits_on_says_so() -> None:
    refused = {("room", number): NoPace("does not fit", 1e9, 10) for number in COUNTS}
    ranking = rank([rent()], {"rented": COUNTS}, refused, demand())
    assert [one.reason for one in ranking.refused] == ["does not fit"] * len(COUNTS)
    assert (ranking.options, ranking.best, ranking.front) == ((), None, frozenset())


def test_the_distribution_has_the_error_bar_as_its_quantiles() -> None:
    median, spread = log_spread(9.0, 12.0, 0.8)
    assert chance_above(12.0, median, spread) == pytest.approx(0.1)
    assert chance_above(9.0, median, spread) == pytest.approx(0.9)
    assert chance_above(np.inf, median, spread) == 0.0


@pytest.mark.slow
def test_the_spread_of_interruptions_is_that_of_played_runs() -> None:
    """Exponential gaps, uniform losses: the closed form of the compound sum against draws."""
    rng = np.random.default_rng(0)
    stops, saves, length = Interruptions(4000.0, 300.0), Checkpoints(1800.0, 60.0), 4.0e6
    numbers = rng.poisson(length / stops.seconds_between, 4000)
    sums = np.array([np.sum(300.0 + rng.uniform(0.0, 1860.0, number)) for number in numbers])
    assert np.std(sums) / length == pytest.approx(float(interruption_spread(length, stops, saves)), rel=0.05)


def test_the_whole_bar_moves_with_the_prediction() -> None:
    one = by_key(ranked([rent()], demand()))["rented", 64]
    assert one.low_seconds < one.run.seconds < one.high_seconds
    wider = replace(pace(64), high_seconds=2.0 * pace(64).high_seconds)
    other = rank([rent()], {"rented": (64,)}, {("room", 64): wider}, demand()).options[0]
    assert other.high_seconds > one.high_seconds
    assert other.late_fraction >= one.late_fraction


def test_the_chances_of_being_the_choice_are_shares_and_follow_the_price() -> None:
    offers = [rent("near", dollars_per_hour=2.1), rent("far", cluster="slow", accelerator="a100-sxm-80gb")]
    ranking = ranked(offers, demand())
    chances = choice_fractions(ranking.options, demand(), np.random.default_rng(1))
    assert 0.99 <= sum(chances.values()) <= 1.0 + 1e-9
    assert ranking.best is not None
    assert chances[ranking.best.key] == max(chances.values())
    assert choice_fractions(ranking.options, demand(deadline_seconds=1.0), np.random.default_rng(1)) == {}
    assert choice_fractions((), demand(), np.random.default_rng(1)) == {}


def test_sizes_of_one_accelerator_are_wrong_together() -> None:
    """What is dearer at every speed is never the choice, however wide its error bar: the error is common."""
    offers = [rent("near", dollars_per_hour=2.0), rent("dear", dollars_per_hour=2.01)]
    ranking = ranked(offers, demand())
    assert {name for name, _ in choice_fractions(ranking.options, demand(), np.random.default_rng(1))} == {"near"}


def what_if(offers: list[Offer], asked: Demand) -> list[WhatIf]:
    clusters = sorted({one.cluster for one in offers})
    found, counts = paces(*clusters, slower=1.3), {one.name: COUNTS for one in offers}
    best = rank(offers, counts, found, asked).best
    assert best is not None
    return what_ifs(best, offers, counts, found, asked)


def test_what_changes_the_choice_is_found() -> None:
    offers = [
        rent("near", dollars_per_hour=2.0),
        rent("far", cluster="slow", accelerator="a100-sxm-80gb", dollars_per_hour=1.7),
    ]
    found = {(one.name, one.change_factor, one.accelerator): one for one in what_if(offers, demand())}
    assert found["price", 1.25, "h100-sxm"].changes_choice
    assert found["price", 1.25, "h100-sxm"].best.offer.name == "far"  # type: ignore[union-attr]
    assert not found["price", 1.25, ""].changes_choice
    assert not any(name in ("budget",) for name, _, _ in found)
    cheaper = found["price", 0.8, ""].best
    dearer = found["price", 1.25, ""].best
    assert cheaper is not None
    assert dearer is not None
    assert cheaper.dollars < dearer.dollars
    fastest = by_key(ranked([rent()], demand()))["rented", max(COUNTS)]
    tight = demand(deadline_seconds=1.1 * fastest.high_seconds)
    nothing = {one.change_factor: one for one in what_if([rent()], tight) if one.name == "speed"}
    assert nothing[0.8].best is None
    assert nothing[0.8].changes_choice


def test_the_cheapest_alone_is_the_best_of_the_ranking() -> None:
    offers = [rent(), rent("same", dollars_per_hour=1.5), rent("other", cluster="slow"), purchase(), purchase("too")]
    counts = {one.name: COUNTS for one in offers}
    asked = demand()
    best = ranked(offers, asked).best
    found = cheapest(offers, counts, paces("room", "slow", slower=1.3), lambda offer: asked)
    assert best is not None
    assert found is not None
    assert found.key == best.key


def test_buying_pays_where_both_bills_are_equal() -> None:
    bought, rented = purchase(), rent(terms="reserved")
    (one,) = break_evens(ranked([bought, rented, rent("spot", terms="spot", interruptions_per_instance_second=1e-9)],
                                demand()).options, demand())  # fmt: skip
    assert (one.bought.offer.name, one.rented.offer.name) == ("bought", "rented")
    figures = demand().ownership
    share = one.use_seconds / one.life_seconds
    fixed = one.bought.bill.total_dollars - one.bought.bill.energy_dollars
    used_hours = one.bought.run.seconds / HOUR
    owner_an_hour = fixed / used_hours / share + one.bought.bill.energy_dollars / used_hours
    assert owner_an_hour == pytest.approx(2.0 * one.bought.num_devices, rel=1e-6)
    assert figures.utilisation_fraction < 1.0


def test_the_largest_job_uses_up_the_time_or_the_money() -> None:
    asked = demand(budget_dollars=1e6)
    found = largest(ranked([rent()], asked).options, asked)
    assert found is not None
    then = demand(budget_dollars=1e6, tokens=found.tokens * 0.999)
    option = by_key(ranked([rent()], then))[found.option.key]
    assert not option.shortfall
    assert by_key(ranked([rent()], demand(budget_dollars=1e6, tokens=found.tokens * 1.01)))[option.key].shortfall
    with_purchase = ranked([rent(), purchase(price=1e6)], asked)
    assert largest(with_purchase.options, asked) == found  # there is no money for the outlay
    assert {name for name, _ in choice_fractions(with_purchase.options, asked, np.random.default_rng(1))} == {"rented"}
    assert largest(ranked([rent()], asked).options, demand(deadline_seconds=np.inf)) is None


def test_a_curve_says_where_it_bends_and_why() -> None:
    own = [(number, pace(number, overhead_seconds=2.0), 4e6) for number in COUNTS]
    found = curve("room", own)
    first, *others = found.points
    assert (first.speedup_factor, first.efficiency_fraction, first.marginal_fraction) == (1.0, 1.0, 1.0)
    for one in others:
        assert one.efficiency_fraction < 1.0
        assert one.grown_part == "dp"
        assert one.speedup_factor == pytest.approx(one.efficiency_fraction * one.num_devices / first.num_devices)
    assert found.bend is not None
    before = [one for one in found.points if one.num_devices < found.bend.num_devices]
    assert all(one.marginal_fraction >= BEND_FRACTION for one in before)
    perfect = curve("room", [(number, pace(number, overhead_seconds=0.0), 4e6) for number in COUNTS])
    assert perfect.bend is None
    assert perfect.points[-1].speedup_factor == pytest.approx(8.0)
    grown = [(number, pace(64), 4e6 * number / 64) for number in COUNTS]
    assert curve("room", grown, is_weak=True).points[-1].efficiency_fraction == pytest.approx(1.0)
