"""What examples/README.md says its examples answer is what they answer."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from planner.layout import parsed
from planner.plan import Plan
from planner.recompute import Module, Recompute
from tests.cli import meshwise
from tests.documents import ROOT, blocks, check

README = ROOT / "examples" / "README.md"
ASKED = re.compile(r"```sh\n(meshwise (\w+) examples/([\w.-]+)\.toml.*)\n```\n\nAnswer: (.*)\n")
SLOW = ("deepseek-v3-on-2048-h800", "llama2-70b-on-a-mixed-room")


def named(plan: dict[str, Any]) -> str:
    """A plan in the words of tables, without where its layers lie."""
    fields = {name: value for name, value in plan.items() if name not in ("placement", "layout", "offload")}
    fields |= {"recompute": Recompute.parse(plan["recompute"])}
    fields |= {"recompute_modules": Module.parse(plan["recompute_modules"])}
    layout = {} if plan["layout"] in ("even", "auto") else {"layout": parsed(plan["layout"])}
    words = str(Plan(**fields, **layout)).split()
    return " ".join("uneven" if "|" in word else word for word in words)


def plan(answer: dict[str, Any]) -> str:
    best = answer["candidates"][0]
    if "requests_per_second" in best:
        pool, attained = best["plan"]["decode"], best["simulated"]["attained_fraction"]["value"]
        return (
            f"{best['num_devices']} device: {pool['replicas']} replica of tp {pool['tp']}, up to "
            f"{best['most_requests_per_second']:.1f} requests/s; {attained:.1%} of the requests within the targets"
        )
    low, high = best["interval"]["low"], best["interval"]["high"]
    unit = "s" if best["step_seconds"] > 1.0 else "ms"
    scale = 1.0 if unit == "s" else 1e3
    rate = float(f"{best['tokens_per_second_per_device']:.3g}")
    return (
        f"`{named(best['plan'])}`, {best['step_seconds'] * scale:.3g} {unit} a step ({low * scale:.3g} to "
        f"{high * scale:.3g}), {rate:,.0f} tokens/s a device, MFU {best['mfu']:.1%}"
    )


def diff(answer: dict[str, Any]) -> str:
    first, second = answer["first"], answer["second"]
    ranges = [f"{one['interval']['low']:.3g} to {one['interval']['high']:.3g}" for one in (first, second)]
    return (
        f"{first['step_seconds']:.3g} s a step ({ranges[0]}) on {first['job']['cluster']}, "
        f"{second['step_seconds']:.3g} s ({ranges[1]}) on {second['job']['cluster']}"
    )


def simulate(answer: dict[str, Any]) -> str:
    run = answer["runs"][0]
    return (
        f"{run['attained_fraction']['value']:.1%} of requests within their targets; first token "
        f"{run['ttft_seconds']['mean']['value'] * 1e3:.0f} ms in the mean, each further one "
        f"{run['tpot_seconds']['mean']['value'] * 1e3:.1f} ms"
    )


WORDS = {"plan": plan, "diff": diff, "simulate": simulate}
QUESTIONS = [match.groups() for match in ASKED.finditer(README.read_text())]


@pytest.mark.parametrize(
    ("line", "command", "name", "answer"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[2] in SLOW else []) for one in QUESTIONS],
    ids=[one[2] for one in QUESTIONS],
)
def test_an_example_answers_what_its_page_says(
    line: str, command: str, name: str, answer: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    result = meshwise(*shlex.split(line)[1:], "--json")
    assert (result.code, result.err) == (0, "")
    fresh = WORDS[command](json.loads(result.out)) + "."
    if request.config.getoption("--regenerate-golden"):
        README.write_text(
            README.read_text().replace(f"{line}\n```\n\nAnswer: {answer}\n", f"{line}\n```\n\nAnswer: {fresh}\n")
        )
        answer = fresh
    assert answer == fresh, "examples/README.md differs; if the new answer is right, run pytest --regenerate-golden"


def test_commands_that_are_not_run_are_understood() -> None:
    for block in blocks(README):
        for line in block.commands if block.title else ():
            check(line)


def test_every_example_has_its_place_on_the_page() -> None:
    text = README.read_text()
    files = [path.name for path in Path(README.parent).iterdir() if path.name != "README.md"]
    assert [name for name in files if f"]({name})" not in text] == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("gpt-20m-*.toml")), ids=lambda path: path.stem)
def test_example_plans_are_simulated(path: Path) -> None:
    result = meshwise("simulate", path, "--cluster", "xeon-8480")
    assert (result.code, result.err) == (0, "")
