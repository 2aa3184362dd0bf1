"""The device hours of whole published runs are met within the bar, each inside its stated interval."""

import pytest

from benchmarks.gpu_hours import BAR, PublishedRun, predict, published
from profiles.units import DAY, HOUR, TERA

RUNS = {run.name: run for run in published()}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_published_device_hours_are_met(run: PublishedRun) -> None:
    found = predict(run)
    assert found.device_hours == pytest.approx(run.device_hours, rel=BAR)
    assert found.low_hours <= run.device_hours <= found.high_hours
    if run.computing_hours:
        assert found.computing_hours == pytest.approx(run.computing_hours, rel=BAR)
        assert found.computing_low <= run.computing_hours <= found.computing_high
    assert found.computing_hours < found.device_hours, "stops cost something"


def test_the_table_says_what_its_sources_do() -> None:
    tokens = {name: sum(phase.tokens for phase in run.phases) / TERA for name, run in RUNS.items()}
    expected = {"DeepSeek-V3": 14.8, "Llama 3 405B": 15.6, "BLOOM-176B": 0.366, "OPT-175B": 0.3}
    assert tokens == pytest.approx(expected)
    deepseek = RUNS["DeepSeek-V3"]
    assert deepseek.device_hours / 14.8 == pytest.approx(180e3, rel=1e-3), "180 thousand hours a trillion tokens"
    assert deepseek.device_hours * HOUR / 2048 / DAY < 61, "less than two months"
    assert RUNS["OPT-175B"].device_hours == pytest.approx(57 * 24 * 992, rel=1e-4)


def test_fewer_spare_nodes_never_need_fewer_hours() -> None:
    run = RUNS["OPT-175B"]
    few, many = (predict(run.model_copy(update={"spares": spares})).device_hours for spares in (1, 12))
    assert few > many
