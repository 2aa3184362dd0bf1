"""Error bars come from residuals, and say which."""

import numpy as np
import pytest
from pydantic import ValidationError

from planner.cost.intervals import interval
from profiles.residuals import Residuals, Spread, shipped_residuals
from tests.scenes import cluster, job


def spread(low: float, high: float) -> Spread:
    return Spread(low_ratio=low, high_ratio=high, num_runs=10, num_sources=2, left_out_coverage_fraction=0.8)


RECORD = Residuals(
    name="test", source="invented for this test", date="2026-01-01", level_fraction=0.8,
    dense={"pool": spread(0.8, 1.5), "a100-sxm-80gb": spread(0.9, 1.2)}, sparse={"pool": spread(0.7, 2.0)},
)  # fmt: skip


def test_intervals_scale_the_prediction() -> None:
    found = interval(np.array([1.0, 10.0]), job(), cluster(8), RECORD)
    assert np.allclose(found.low_seconds, [0.9, 9.0])
    assert np.allclose(found.high_seconds, [1.2, 12.0])
    assert found.level_fraction == 0.8
    assert "10 published runs of dense transformer models on a100-sxm-80gb" in found.basis


def test_others_take_the_pool_of_their_kind() -> None:
    assert interval(1.0, job(), cluster(8, "dgx-b200"), RECORD).high_seconds == 1.5
    sparse = interval(1.0, job("mixtral-8x7b"), cluster(8), RECORD)
    assert (sparse.low_seconds, sparse.high_seconds) == (0.7, 2.0)
    assert "mixture-of-experts" in sparse.basis


def test_the_shipped_record_serves_every_accelerator() -> None:
    record = shipped_residuals()
    for sparse in (False, True):
        found, name = record.spread("an accelerator nobody measured", sparse=sparse)
        assert name == "pool"
        assert found.low_ratio <= found.high_ratio
    assert record.dense["pool"].num_runs >= 500


def test_impossible_records_do_not_load() -> None:
    with pytest.raises(ValidationError, match="at most high_ratio"):
        spread(2.0, 1.0)
    with pytest.raises(ValidationError, match="pool must be among them"):
        RECORD.model_validate(RECORD.model_dump() | {"sparse": {}})
