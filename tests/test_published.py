"""The tables that ship: every row cited, and the scores within their stated bands."""

import dataclasses
import re
from pathlib import Path

import pytest

from meshwise.scatter import draw_scatter
from tests.cli import meshwise
from validate.runs.published import PUBLISHED, TABLES, Bands, outside, published_runs, shipped_bands
from validate.runs.readings import reading_of
from validate.score.training import score_runs, source_of

RUNS = published_runs(PUBLISHED)
SCORE = score_runs(RUNS)


def test_scores_are_within_their_bands() -> None:
    assert outside(SCORE, shipped_bands()) == []


def test_every_row_is_cited_and_none_twice() -> None:
    assert all(re.search(r"^https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{7,}/|arXiv:\d", run.source)
               for run in RUNS)  # fmt: skip
    assert len({run.id for run in RUNS}) == len(RUNS) >= 100
    alone = {dataclasses.replace(run, id="", source="", notes="") for run in RUNS}
    assert len(alone) == len(RUNS)


def test_the_table_covers_what_is_predicted() -> None:
    assert len({source_of(run) for run in RUNS}) >= 9
    assert {reading_of(run) for run in RUNS if run.peak_memory_gb} == {"allocated", "reserved", "device"}
    assert any(run.oom for run in RUNS)
    assert any(run.num_experts for run in RUNS)
    assert SCORE.ranking.families >= 5
    assert len({row.setting.cluster.accelerator.name for row in SCORE.scored}) >= 7


def test_predictions_beat_a_constant_utilisation() -> None:
    assert SCORE.overall.mape is not None
    assert SCORE.baseline.mape is not None
    assert SCORE.overall.mape < 0.5 * SCORE.baseline.mape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": {"overall": 0.0001}}, "mean error of the step, overall, is 0."),
        ({"time": {"nobody": 0.1}}, "nobody, is None, at most 0.1"),
        ({"memory": {"allocated": 0.0}}, "mean error of memory, allocated,"),
        ({"min_coverage_fraction": 1.0}, "coverage of error bars"),
        ({"min_runs": 10_000}, "at least 10000"),
        ({"max_regret_mean": 0.0}, "mean regret"),
    ],
)
def test_what_lies_outside_is_said(changes: dict[str, object], words: str) -> None:
    wide = shipped_bands().model_dump() | {"time": {}, "memory": {}} | changes
    found = outside(SCORE, Bands(**wide))
    assert len(found) == 1
    assert words in found[0]


def test_a_picture_holds_every_run(tmp_path: Path) -> None:
    figure = draw_scatter(SCORE.scored)
    points = [len(line.get_xdata()) for line in figure.axes[0].lines[1:]]  # the first is the diagonal
    assert sum(points) == SCORE.overall.n
    assert len(points) == len(SCORE.by_source)
    picture = tmp_path / "scatter.png"
    arguments = ("score", "training", "sequence_parallelism_table5", "--plot", str(picture))
    assert meshwise(*arguments).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "--force" in meshwise(*arguments).err
    assert meshwise(*arguments, "--force").code == 0


def test_pictures_are_of_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run of the table"):
        draw_scatter([])
    refused = meshwise("score", "kernels", tmp_path / "none.csv", "--plot", "a.png")
    assert refused.code == 2
    assert "--plot" in refused.err


def test_an_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(TABLES)):
        published_runs("nothing")
