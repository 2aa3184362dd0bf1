"""The capacity command on real searches of a small model: answers, cache, options, errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwise.capacity.cache import PaceCache, digest
from meshwise.capacity.setups import scenario
from meshwise.jobfile import JobTable
from planner.choose.capacity.fanout import find_paces
from planner.choose.capacity.pace import NoPace, Pace
from planner.choose.requirements import Scenario
from tests.cli import Result, faults, meshwise

ASKED = ("--model", "gpt2-xl", "--global-batch", "256", "--tokens", "300G", "--start", "2027-01-01", "--workers", "1")
AMONG = ("--offers", "nebius-gpu-h100-sxm-8gpu-on-demand-eu-north1,buy-dgx-h100", "--counts", "8,16")


def ask(*more: str) -> Result:
    return meshwise("capacity", *ASKED, *AMONG, *more)


def document(*more: str) -> dict[str, Any]:
    result = ask(*more, "--json")
    assert result.code in (0, 3), result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def of(found: dict[str, Any], offer: str, devices: int) -> dict[str, Any]:
    return next(one for one in found["options"] if (one["offer"], one["devices"]) == (offer, devices))


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return document("--no-cache")


def test_what_is_remembered_is_what_was_found(usual: dict[str, Any]) -> None:
    first, second = document(), document()
    assert first["num_searches"] == 4  # two clusters at two sizes; and a batch that grows with one of them
    assert first["num_searched"] <= 4 + 1
    assert second["num_searched"] == 0
    for found in (first, second):
        changing = ("num_searched", "elapsed_seconds")
        assert {name: found[name] for name in found if name not in changing} == {
            name: usual[name] for name in usual if name not in changing
        }


def test_the_best_is_the_cheapest_of_those_that_will_do(usual: dict[str, Any]) -> None:
    good = [one for one in usual["options"] if not one["shortfall"]]
    assert usual["best"] == {"offer": good[0]["offer"], "devices": good[0]["devices"]}
    assert all(one["dollars"] >= good[0]["dollars"] for one in good)
    assert sum(good[0]["bill_dollars"].values()) == pytest.approx(good[0]["dollars"])
    tokens = 3e11 / 1e6
    assert good[0]["dollars_per_million_tokens"] * tokens == pytest.approx(good[0]["dollars"])


def test_a_step_is_as_long_and_as_large_as_the_estimate_says(usual: dict[str, Any]) -> None:
    """Also where the length of a sequence is left to the default."""
    best = of(usual, "buy-dgx-h100", 16)
    flags = [f"--{name.replace('_', '-')}={best['plan'][name]}" for name in ("tp", "pp", "zero_stage", "micro_batch")]
    said = ("--model", "gpt2-xl", "--global-batch", "256", "--cluster", "dgx-h100", "--devices", "16", "--json")
    estimate = json.loads(meshwise("estimate", *said, *flags).out)
    tokens_per_step = estimate["tokens_per_second"] * estimate["step_seconds"]
    strong = next(one for one in usual["scaling"] if (one["cluster"], one["kind"]) == ("dgx-h100", "strong"))
    point = next(one for one in strong["points"] if one["devices"] == 16)
    assert point["tokens_per_second"] * point["step_seconds"] == pytest.approx(tokens_per_step)
    run = best["run_seconds"] * best["goodput"]["useful"]
    assert run / best["step_seconds"] == pytest.approx(3e11 / tokens_per_step, rel=1e-3)


RENTED = "nebius-gpu-h100-sxm-8gpu-on-demand-eu-north1"


def changed(field: str) -> Callable[[dict[str, Any]], Any]:
    return lambda found: of(found, RENTED, 16)[field]


@pytest.mark.parametrize(
    ("flags", "figure"),
    [
        (("--tokens", "600G"), changed("dollars")),
        (("--deadline", "30d"), changed("late_fraction")),
        (("--deadline", "2027-02-15"), changed("late_fraction")),
        (("--budget", "20k"), changed("over_budget_fraction")),
        (("--fleet", "opt-175b"), changed("num_interruptions")),
        (("--storage-gb-per-second", "0.01"), changed("run_seconds")),
        (("--counts", "16"), lambda found: len(found["options"])),
        (("--offers", RENTED), lambda found: len(found["options"])),
        (("--providers", "Nebius"), lambda found: len(found["options"])),
        (("--terms", "purchase"), lambda found: len(found["options"])),
        (("--regions", "eu-north1"), lambda found: len(found["options"])),
        (("--pue", "2"), changed("energy_joules")),
        (("--electricity-dollars-per-kwh", "1"), lambda found: of(found, "buy-dgx-h100", 16)["dollars"]),
        (("--carbon-grams-per-kwh", "0"), changed("carbon_kilograms")),
        (("--country", "norway"), lambda found: of(found, "buy-dgx-h100", 16)["carbon_kilograms"]),
        (("--family", "gpt2"), lambda found: len(found["family"])),
        (("--spares", "0.5"), lambda found: of(found, "buy-dgx-h100", 16)["dollars"]),
        (("--start", "2027-01-02"), lambda found: found["demand"]["start"]),
    ],
)
def test_every_option_has_an_effect(
    flags: tuple[str, ...], figure: Callable[[dict[str, Any]], Any], usual: dict[str, Any]
) -> None:
    if "--terms" in flags:
        assert {one["terms"] for one in document(*flags)["options"]} == {"purchase"}
    if flags[0] == "--start":
        assert figure(document(*flags)) == flags[1]
        return
    assert figure(document(*flags)) != figure(usual)


def test_the_accepted_risk_decides(usual: dict[str, Any]) -> None:
    hours = of(usual, RENTED, 16)["run_seconds"] / 3600.0 * 1.02
    careful, bold = (document("--deadline", f"{hours:.2f}h", "--max-risk", risk) for risk in ("0.01", "0.9"))
    assert "too risky" in of(careful, RENTED, 16)["shortfall"]
    assert of(bold, RENTED, 16)["shortfall"] == ""


def test_clusters_at_a_price_need_no_offer() -> None:
    result = meshwise(
        "capacity", *ASKED, "--clusters", "dgx-h100,dgx-a100", "--price", "2.5", "--counts", "8", "--json"
    )
    found = json.loads(result.out)
    assert {one["offer"] for one in found["options"]} == {"own-dgx-h100", "own-dgx-a100"}
    hours = of(found, "own-dgx-h100", 8)["run_seconds"] / 3600
    assert of(found, "own-dgx-h100", 8)["dollars"] == pytest.approx(hours * 8 * 2.5)


def test_a_job_file_says_the_same_as_options(tmp_path: Path, usual: dict[str, Any]) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[job]\nmodel = "gpt2-xl"\nglobal_batch = 256\n[capacity]\ntokens = 3e11\nstart = 2027-01-01\n'
        f'offers = ["{RENTED}", "buy-dgx-h100"]\ncounts = [8, 16]\n'
    )
    found = json.loads(meshwise("capacity", path, "--workers", "1", "--json").out)
    assert found["options"] == usual["options"]
    assert meshwise("plan", path, "--cluster", "dgx-h100", "--no-simulate").code == 0


def test_figures_of_owners_can_be_stated(tmp_path: Path, usual: dict[str, Any]) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[capacity.ownership]\nutilisation_fraction = 0.4\nlifetime_years = 4\n")
    found = json.loads(meshwise("capacity", path, *ASKED, *AMONG, "--json").out)
    half, whole = (of(one, "buy-dgx-h100", 16)["bill_dollars"]["hardware"] for one in (found, usual))
    assert half == pytest.approx(2.0 * whole)
    path.write_text("[capacity.ownership]\nlifetime_years = 0\n")
    assert "capacity.ownership: lifetime_seconds" in meshwise("capacity", path, *ASKED, *AMONG).err


def test_offers_of_the_users_own_join_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[capacity]\noffers = ["our-room"]\n[[offers]]\nname = "our-room"\naccelerator = "h100-sxm"\n'
        'cluster = "dgx-h100"\nterms = "on-demand"\ndollars_per_device_hour = 1.25\n'
    )
    result = meshwise("capacity", path, *ASKED, "--counts", "8", "--json")
    assert json.loads(result.out)["best"] == {"offer": "our-room", "devices": 8}


def test_nothing_that_will_do_is_an_answer() -> None:
    result = ask("--deadline", "1d")
    assert result.code == 3
    assert "nearest misses" in result.out
    assert "too slow" in result.out


def test_offers_that_no_plan_runs_on_say_so() -> None:
    result = ask("--precision", "nvfp4")
    assert result.code == 3
    assert "no plan can run" in result.out
    assert "no units for nvfp4" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tokens", "many"), "tokens: 'many' is not an amount"),
        (("--deadline", "soon"), "deadline: 'soon' is neither a span nor a date"),
        (("--deadline", "2026-12-31"), "not after the start"),
        (("--start", "tomorrow"), "start: 'tomorrow' is not a date"),
        (("--budget", "0"), "budget: must be above 0"),
        (("--counts", "8-"), "is not a list of numbers of devices"),
        (("--counts", "1-100000:1"), "is not a list of numbers of devices"),
        (("--accelerators", "h1000"), "accelerators: no offer has 'h1000'"),
        (("--terms", "stolen"), "terms: no offer has 'stolen'; there are"),
        (("--offers", "nobody-sells"), "no offer is called 'nobody-sells'"),
        (("--terms", "spot"), "offers: none is left"),
        (("--price", "2"), "price: 2 is of no cluster"),
        (("--fleet", "none"), "'none'"),
        (("--pue", "0.5"), "--pue"),
        (("--country", "atlantis"), "atlantis"),
        (("--electricity-dollars-per-kwh", "-1"), "electricity_dollars_per_kwh must be greater than 0"),
        (("--model", "gpt5"), "gpt5"),
    ],
)
def test_bad_input_is_one_sentence(flags: tuple[str, ...], words: str) -> None:
    result = ask(*flags)
    assert not faults(result)
    assert words in result.err


def test_what_cannot_be_read_back_is_searched_again(tmp_path: Path) -> None:
    cache, on = PaceCache(tmp_path / "cache"), scenario(JobTable(model="gpt2", global_batch=64), "dgx-h100", 8)
    found = find_paces({"one": on})["one"]
    name = digest(on)
    assert cache.get(name, 8) is None
    cache.put(name, found)
    assert isinstance(found, Pace)
    assert cache.get(name, 8) == found
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_text()
    for broken in ("", whole[: len(whole) // 2], "[]", '{"plan": {}}', whole.replace('"dp": ', '"dp": 7')):
        path.write_text(broken)
        assert cache.get(name, 8) is None
    refused = NoPace("does not fit", 1.5, 7)
    cache.put(name, refused)
    assert cache.get(name, 8) == refused
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [path.name]  # no draft is left behind
    PaceCache(path / "no-folder").put(name, found)  # a cache that cannot be written keeps nothing, and is no error


def test_the_name_of_an_entry_is_all_that_its_search_depends_on() -> None:
    table = JobTable(model="gpt2", global_batch=64)
    one = scenario(table, "dgx-h100", 8)
    others = [
        scenario(table.model_copy(update={"global_batch": 32}), "dgx-h100", 8),
        scenario(table.model_copy(update={"software": "torchtitan"}), "dgx-h100", 8),
        scenario(table, "dgx-h100", 16),
        scenario(table, "dgx-a100", 8),
    ]
    assert digest(scenario(table, "dgx-h100", 8)) == digest(one)
    assert len({digest(one), *map(digest, others)}) == 5
    twin = one.cluster.model_copy(update={"name": "another", "source": "elsewhere"})
    assert digest(Scenario(one.job, twin, one.stack)) == digest(one)
