"""The board of bars: rules that choose, figures that add up, verdicts that say by how much."""

import dataclasses

import numpy as np
import pytest

from benchmarks.bars import BARS, Bar
from benchmarks.board import lines, print_coverage, print_failures, print_lines
from benchmarks.leave_one_out import LeftOut
from benchmarks.refit import Fitted, Table, log_seconds
from validate.runs.published import published_runs
from validate.runs.table import Run
from validate.score.training import score_runs, settings_of

PAPER = published_runs("sequence_parallelism_table5")
SKIPPED = dataclasses.replace(PAPER[0], id="korthikanti22-9", framework="home-made")
RUNS = (*PAPER, SKIPPED)
SCORE = score_runs(RUNS)


def found(factor: float) -> LeftOut:
    """Predictions left out that are `factor` times the measured ones."""
    settings = tuple(settings_of(PAPER)[0])
    measured = np.array([setting.run.iteration_time_s for setting in settings], dtype=float)
    sources = np.array(["korthikanti22"] * len(settings))
    empty = np.zeros((0, 0, len(settings)))
    table = Table(settings, measured, sources, log_seconds(settings), empty, np.ones(len(settings), dtype=bool))
    return LeftOut(table, measured * factor, {}, Fitted({}, {}, {}))


def test_a_line_has_its_figure_in_sample_left_out_and_of_the_baseline() -> None:
    line = lines(RUNS, SCORE, found(1.2))[0]
    assert line.num_runs == 8
    assert line.shipped == pytest.approx(SCORE.overall.mape)
    assert line.left_out == pytest.approx(0.2)
    assert line.constant == pytest.approx(SCORE.baseline.mape)
    assert line.is_met == (line.shipped <= line.limit)
    assert line.skipped == {"framework is not described by a software stack": 1}


def test_lines_without_runs_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(lines(RUNS, SCORE, found(1.0)))
    print_failures(SCORE)
    print_coverage(SCORE, {"dense.new": {"one": [1.0], "two": [1.0, 9.0]}})
    printed = capsys.readouterr().out
    assert printed.count("no run scored") >= 10
    assert "1 skipped, 1: framework" in printed
    assert "| dense, new | 75.0 | one 100, two 50 |" in printed


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.name)
def test_rules_choose_by_columns(bar: Bar) -> None:
    assert 0.0 < bar.limit < 0.2
    assert not any(bar.holds(_renamed(run)) for run in PAPER) or bar.rule == "all"


def _renamed(run: Run) -> Run:
    return dataclasses.replace(run, id="nobody-1")
