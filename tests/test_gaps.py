"""Times between tokens: every gap is counted once, however iterations are played, and percentiles are in place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.engine import EngineRecord
from simulator.serving.arrivals import lengths, poisson
from simulator.serving.gaps import Gaps
from simulator.serving.play import play
from simulator.serving.requests import Requests
from simulator.serving.spec import Deployment, PoolSpec, ReplicaSpec
from simulator.serving.timeline import Timeline
from tests.linear_prices import LinearPrices


@given(
    first=st.floats(1e-4, 1.0), longer=st.floats(0.0, 1e-3), count=st.integers(1, 400), requests=st.integers(1, 50),
    percent=st.sampled_from([5, 50, 99]),
)  # fmt: skip
def test_a_run_is_its_iterations(first: float, longer: float, count: int, requests: int, percent: int) -> None:
    """Mean and number are exact; a percentile lies within the run, near that of the iterations."""
    gaps = Gaps()
    gaps.add(first, longer, count, requests)
    each = first + longer * np.arange(count)
    assert gaps.num_gaps == pytest.approx(count * requests)
    assert gaps.mean_seconds == pytest.approx(each.mean())
    width = (each[-1] - each[0]) / min(count, 8)
    assert (
        abs(gaps.percentile_seconds(percent) - np.percentile(each, percent, method="inverted_cdf"))
        <= 0.011 * each[-1] + width
    )


@pytest.mark.parametrize("mixes", [True, False])
def test_gaps_fill_the_time_between_first_and_last_token(mixes: bool) -> None:
    """Of all requests together, also where prompts run in iterations of their own; stepping makes no difference."""
    engine = EngineRecord(name="engine", source="a test", library="none", mixes_prefill=mixes)
    draw = np.random.default_rng(3)
    requests = Requests(poisson(20.0, 300, draw), lengths(200.0, 0.5, 300, draw), lengths(40.0, 0.5, 300, draw))
    replica = ReplicaSpec((LinearPrices(),), 1_000_000, engine, 512, 64)
    found = []
    for coalesces in (True, False):
        timeline = Timeline()
        played = play(requests, [Deployment(PoolSpec(replica))], coalesces=coalesces, timeline=timeline)
        waited = played.last_token_seconds - played.first_token_seconds
        assert timeline.gaps.num_gaps == np.sum(requests.output_tokens - 1)
        assert timeline.gaps.seconds == pytest.approx(float(waited.sum()), rel=1e-9)
        found.append([timeline.gaps.percentile_seconds(percent) for percent in (50, 90, 99)])
    assert found[0] == pytest.approx(found[1], rel=0.03)
