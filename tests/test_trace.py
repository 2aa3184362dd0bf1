"""Trace files and pictures of played steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine import Simulation, simulate
from simulator.gantt import COLOURS, draw_gantt, save_gantt
from simulator.trace import Stream, trace_events, write_trace
from tests.played import Shape, prices, shapes

SMALL = Shape("1f1b", 4, 8)


def played(shape: Shape = SMALL) -> Simulation:
    table = prices([1.0] * shape.num_chunks, [2.0] * shape.num_chunks, transfer=0.2, reduce=2.0, step=0.3, gather=0.5)
    return simulate(shape.program(2, dp=2, zero_stage=1), table, dp_overlap=True, pp_overlap=True)


@given(shapes())
def test_the_trace_holds_every_span_and_pairs_every_message(shape: Shape) -> None:
    simulation = played(shape)
    events = list(trace_events(simulation.tracks, simulation.prices))
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == sum(len(track) for track in simulation.tracks)
    assert max(event["ts"] + event["dur"] for event in spans) == pytest.approx(simulation.step_seconds * 1e6)
    starts = sorted(event["id"] for event in events if event["ph"] == "s")
    ends = sorted(event["id"] for event in events if event["ph"] == "f")
    assert starts == ends == list(range(len(starts)))
    compute = [event for event in spans if event["tid"] == Stream.COMPUTE]
    assert all(sum(event["args"].values()) * 1e6 == pytest.approx(event["dur"]) for event in compute)


def test_arrows_can_be_left_out() -> None:
    simulation = played()
    events = trace_events(simulation.tracks, simulation.prices, arrows=False)
    assert {event["ph"] for event in events} == {"M", "X"}


def test_the_file_is_json_and_whole(tmp_path: Path) -> None:
    simulation = played()
    path = tmp_path / "trace.json"
    write_trace(path, simulation.tracks, simulation.prices)
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"compute", "pp send", "pp receive", "dp"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    simulation = played()
    path = tmp_path / "trace.json"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_trace(path, simulation.tracks, {})
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]


def pixels(simulation: Simulation) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw_gantt(simulation)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].reshape(-1, 3)


def share_of(colour: str, image: np.ndarray) -> float:
    wanted = np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)])
    return float(np.mean(np.all(np.abs(image.astype(int) - wanted) <= 2, axis=1)))


def test_the_picture_shows_time_in_proportion() -> None:
    simulation = played(Shape("1f1b", 1, 4))
    image = pixels(simulation)
    parts = simulation.breakdown.parts()
    ratio = share_of(COLOURS["backward"], image) / share_of(COLOURS["forward"], image)
    assert ratio == pytest.approx(parts["backward"] / parts["forward"], rel=0.1)


@pytest.mark.parametrize("shape", [Shape("1f1b", 4, 8), Shape("interleaved", 8, 16, 2), Shape("gpipe", 1, 1)])
def test_pictures_name_their_ranks_and_colours(shape: Shape) -> None:
    figure = draw_gantt(played(shape), title="a title")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"rank {r}" for r in range(shape.num_stages)]
    assert axes.get_title(loc="left").startswith("a title: step ")
    (legend,) = figure.legends
    labels = {text.get_text() for text in legend.get_texts()}
    assert {"forward", "backward", "recompute", "optimizer", "communication", "idle"} == labels


def test_microbatch_numbers_stand_where_they_fit() -> None:
    few = {text.get_text() for text in draw_gantt(played(Shape("1f1b", 2, 4))).axes[0].texts}
    assert few == {"0", "1", "2", "3"}
    assert not draw_gantt(played(Shape("1f1b", 2, 600))).axes[0].texts


def test_crowded_ranks_are_blended() -> None:
    """One strip a rank, whose mean colour lies between those of its actions."""
    figure = draw_gantt(played(Shape("1f1b", 2, 1000)))
    strips = figure.axes[0].images
    assert len(strips) == 2
    red, green, blue = np.asarray(strips[0].get_array())[0, 800]
    assert blue < red < 1.0
    assert blue < green < red


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_written(tmp_path: Path, ending: str) -> None:
    save_gantt(played(), tmp_path / f"step.{ending}")
    assert (tmp_path / f"step.{ending}").stat().st_size > 5000


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step\.xyz has no ending of a picture; use one of .*\.png"):
        save_gantt(played(), tmp_path / "step.xyz")


@given(st.sampled_from([1e-5, 1e-2, 10.0]))
def test_the_time_axis_reads_well(scale: float) -> None:
    shape = Shape("1f1b", 2, 2)
    table = prices([scale] * 2, [2 * scale] * 2)
    simulation = simulate(shape.program(), table, dp_overlap=True, pp_overlap=True)
    unit = {1e-5: "us", 1e-2: "ms", 10.0: "s"}[scale]
    assert draw_gantt(simulation).axes[0].get_xlabel().startswith(f"time ({unit})")
