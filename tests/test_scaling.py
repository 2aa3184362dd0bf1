"""More devices: each number gets its own best plan, and the front holds what no other beats."""

import json

import pytest

from meshwise.jobfile import JobTable, question
from meshwise.scaling import parse_counts, scaled
from tests.cli import faults, meshwise

JOB = ("--model", "llama3-70b", "--cluster", "dgx-h100", "--devices", "64", "--global-batch", "128")


def test_counts_are_read_once_each_and_in_order() -> None:
    assert parse_counts("128, 64,128") == [64, 128]
    for text in ("", "64,", "a", "0", "1.5", "-8"):
        with pytest.raises(ValueError, match="is not a list of numbers"):
            parse_counts(text)


def test_the_front_holds_what_no_other_number_beats() -> None:
    asked = question(JobTable(model="llama3-8b", cluster="dgx-h100", devices=8, global_batch=128))
    found = scaled(asked, [8, 16, 32, 64], {})
    steps = [float(one.best.step_seconds) for one in found if one.best]
    assert steps == sorted(steps, reverse=True)
    costs = [(step, one.device_hours_per_tera, -one.headroom_bytes) for step, one in zip(steps, found, strict=True)]
    for one, cost in zip(found, costs, strict=True):
        beaten = any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in costs)
        assert one.on_front != beaten
        assert one.question.job.global_batch == 128


def test_a_number_on_which_nothing_fits_is_said() -> None:
    said = meshwise("plan", *JOB, "--no-simulate", "--top", "1", "--scale", "8,64", "--fix", "zero_stage=0")
    assert said.code == 0, said.err
    assert "no plan fits" in said.out
    assert "device-hours stand for money" in said.out
    found = json.loads(meshwise("plan", *JOB, "--no-simulate", "--top", "1", "--scale", "64", "--json").out)
    alone = found["scaling"][0]
    assert alone["best"]["plan"] == found["candidates"][0]["plan"]
    assert alone["on_front"]


def test_faults_are_one_sentence() -> None:
    assert faults(meshwise("plan", *JOB, "--scale", "many")) == []
    assert faults(meshwise("plan", *JOB, "--scale", "12")) == []
