"""Error bars come from residuals, and say which."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.fit_intervals import calibrated_tail, left_out_coverage, quantiles
from planner.cost.estimate import estimate
from planner.cost.intervals import interval, memory_intervals, within_error
from planner.plan import Plan
from profiles import catalog
from profiles.residuals import Known, PairSpread, Residuals, Spread, shipped_residuals
from profiles.software import default_stack
from tests.scenes import cluster, job


def spread(low: float, high: float) -> Spread:
    return Spread(low_ratio=low, high_ratio=high, num_runs=10, num_sources=2, left_out_coverage_fraction=0.8)


def pair(ratio: float) -> PairSpread:
    return PairSpread(miss_ratio=ratio, num_pairs=10, num_families=3, num_sources=2)


STACK = default_stack()
KNOWN = Known(
    stacks=("one", "two"), attention_kernel=STACK.attention_kernel, is_eager=False, accelerator="a100-sxm-80gb",
    sparse=False, precisions=("bf16",), axes=("tp", "pp"), max_devices=64, low_ratio=0.9, high_ratio=1.2,
    num_runs=1007, num_sources=3,
)  # fmt: skip
RECORD = Residuals(
    name="test", source="invented for this test", date="2026-01-01", level_fraction=0.8,
    dense={"seen": spread(0.95, 1.1), "new": spread(0.8, 1.5), "unmeasured": spread(0.7, 1.9)},
    sparse={"seen": spread(0.8, 1.8), "new": spread(0.7, 2.0), "unmeasured": spread(0.6, 3.0)},
    same_split=pair(1.03), other_split=pair(1.1), known=(KNOWN,),
)  # fmt: skip
PLAN = Plan(tp=4, dp=2)
UNMEASURED = cluster(8).model_copy(update={"kernels": catalog.kernel_curves("")})


def test_intervals_scale_the_prediction() -> None:
    found = interval(np.array([1.0, 10.0]), PLAN, job(), cluster(8), STACK, RECORD)
    assert np.allclose(found.low_seconds, [0.9, 9.0])
    assert np.allclose(found.high_seconds, [1.2, 12.0])
    assert found.level_fraction == 0.8
    assert found.basis == "1,007 published runs of dense models from 3 sources with one and two on a100-sxm-80gb"


@pytest.mark.parametrize(
    ("plan", "changes", "words"),
    [
        (replace(PLAN, cp=2), {}, "has cp"),
        (replace(PLAN, zero_stage=3), {}, "has sharded gradients"),
        (PLAN, {"precision": "fp8"}, "has fp8"),
        (replace(PLAN, dp=128), {}, "end at 64 devices"),
    ],
)
def test_what_no_run_had_widens_the_interval(plan: Plan, changes: dict[str, object], words: str) -> None:
    found = interval(1.0, plan, job().model_copy(update=changes), cluster(8), STACK, RECORD)
    assert (found.low_seconds, found.high_seconds) == (0.8, 1.5)
    assert words in found.basis


def test_stacks_models_and_accelerators_without_runs_widen_it() -> None:
    stack = catalog.software("megatron-lm-2022")
    assert interval(1.0, PLAN, job(), cluster(8), stack, RECORD).high_seconds == 1.5
    assert interval(1.0, PLAN, job("mixtral-8x7b"), cluster(8), STACK, RECORD).high_seconds == 2.0
    assert interval(1.0, PLAN, job("resnet-50"), cluster(8), STACK, RECORD).high_seconds == 1.5
    unmeasured = interval(1.0, PLAN, job(), UNMEASURED, STACK, RECORD.model_copy(update={"known": ()}))
    assert unmeasured.high_seconds == 1.9
    assert "no kernel of it was timed" in unmeasured.basis


def test_few_runs_leave_the_bar_to_all() -> None:
    few = KNOWN.model_copy(update={"low_ratio": None, "high_ratio": None, "num_runs": 3})
    found = interval(1.0, PLAN, job(), cluster(8), STACK, RECORD.model_copy(update={"known": (few,)}))
    assert (found.low_seconds, found.high_seconds) == (0.95, 1.1)
    assert found.basis.startswith("10 published runs")
    assert "3 of them with one and two on a100-sxm-80gb" in found.basis


def test_runs_on_an_unmeasured_accelerator_serve_it() -> None:
    found = interval(1.0, PLAN, job(), UNMEASURED, STACK, RECORD)
    assert found.high_seconds == 1.2


def test_two_plans_are_within_error_or_not() -> None:
    other, bigger = replace(PLAN, tp=2, dp=4), replace(PLAN, micro_batch=2)
    assert within_error(1.09, other, 1.0, PLAN, RECORD)
    assert not within_error(1.11, other, 1.0, PLAN, RECORD)
    assert within_error(1.02, bigger, 1.0, PLAN, RECORD)
    assert not within_error(1.09, bigger, 1.0, PLAN, RECORD)


def test_the_shipped_record_is_wider_the_less_is_known() -> None:
    record = shipped_residuals()
    for group in (record.dense, record.sparse):
        assert all(one.low_ratio < 1.0 < one.high_ratio for one in group.values())
    widths = [record.dense[name].high_ratio / record.dense[name].low_ratio for name in ("seen", "new", "unmeasured")]
    assert widths == sorted(widths)
    assert record.dense["seen"].num_runs >= 500
    assert 1.0 < record.same_split.miss_ratio < record.other_split.miss_ratio < 1.5


def test_stacks_of_a_kind_share_their_runs() -> None:
    alike = STACK.model_copy(update={"name": "another", "gradient_bytes": 2.0})
    eager = STACK.model_copy(update={"host_seconds_per_launch": 1e-5})
    assert RECORD.known_runs(alike, "a100-sxm-80gb", sparse=False) == KNOWN
    assert RECORD.known_runs(eager, "a100-sxm-80gb", sparse=False) is None
    assert RECORD.known_runs(STACK, "abacus", sparse=False) is None


def test_memory_has_error_bars_by_reading() -> None:
    memory = estimate(PLAN, job(), cluster(8), STACK).memory
    found = memory_intervals(memory)
    assert set(found) == {"allocated", "reserved", "device"}
    for reading, bar in found.items():
        predicted = getattr(memory, f"{reading}_bytes")
        assert 0.5 * predicted < bar.low_bytes <= bar.high_bytes < 2.0 * predicted
        assert bar.num_runs >= 5
    assert memory_intervals(memory, RECORD) == {}


def test_left_out_sources_are_covered_to_the_level() -> None:
    generator = np.random.default_rng(7)
    ratios = {f"source {index}": list(np.exp(0.1 * generator.standard_normal(40))) for index in range(12)}
    low, high = quantiles(ratios, 0.1)
    assert np.log([low, high]) == pytest.approx([-0.128, 0.128], abs=0.02)
    covered = left_out_coverage(ratios, calibrated_tail(ratios))
    assert covered is not None
    assert 0.79 < covered < 0.86
    assert left_out_coverage({"alone": [1.0, 2.0]}, 0.1) is None


def test_impossible_records_do_not_load() -> None:
    with pytest.raises(ValidationError, match="at most high_ratio"):
        spread(2.0, 1.0)
    with pytest.raises(ValidationError, match="a spread named new must be among them"):
        RECORD.model_validate(RECORD.model_dump() | {"sparse": {"seen": spread(0.9, 1.1)}})
