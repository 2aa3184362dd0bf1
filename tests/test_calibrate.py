"""Measuring this machine: the file is whole, reads back as a cluster, and describes plausible devices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.cost.collectives import COLLECTIVES, message_seconds
from planner.cost.estimate import estimate
from planner.cost.kernels import kernel_seconds
from planner.plan import Plan
from planner.work.ops import Attention, Elementwise, Gemm
from profiles import catalog
from profiles.cluster import ClusterSpec
from profiles.model import TransformerShape
from profiles.workload import TrainingJob
from validate.calibration.calibrate import calibrate
from validate.calibration.describe import describe
from validate.calibration.effort import QUICK
from validate.calibration.sampling import Samples
from validate.launch import LaunchError


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClusterSpec, list[tuple[str, float]]]:
    """A quick calibration of this machine with two ranks."""
    pytest.importorskip("torch")
    path, told = tmp_path_factory.mktemp("calibrate") / "here.toml", []
    spec = calibrate(path, num_ranks=2, effort=QUICK, device="cpu", on_progress=lambda *step: told.append(step))
    return path, spec, told


def test_the_file_reads_back_as_the_cluster_measured(measured: Any) -> None:
    path, spec, _ = measured
    cluster = catalog.cluster(path)
    assert cluster.num_devices == 2
    assert cluster.name == spec.name
    assert cluster.accelerator.kind == "cpu"
    assert "not a datasheet" in cluster.accelerator.source
    assert [tier.link for tier in cluster.tiers] == ["gloo-loopback"]
    assert set(cluster.tiers[0].curves.collectives) == set(COLLECTIVES) - {"broadcast", "reduce"}  # no plan sends them
    assert cluster.kernels.gemm["fp32"].fit.num_points == 3 * len(QUICK.gemm)
    assert list(path.parent.iterdir()) == [path]


def test_prices_of_the_file_are_plausible_for_any_processor(measured: Any) -> None:
    cluster = catalog.cluster(measured[0])
    gemm = Gemm(256.0, 512.0, 512.0, dtype="fp32")
    flops_per_second = gemm.flops / kernel_seconds(gemm, cluster)
    assert 1e8 < flops_per_second <= 1.5 * cluster.accelerator.flops_per_second("fp32")
    attention = Attention(1.0, 4.0, 4.0, 128.0, 128.0, 64.0, 64.0, dtype="fp32")
    assert 0.0 < kernel_seconds(attention, cluster) < 1.0
    update, other = (kernel_seconds(Elementwise(1e6, in_place=flag), cluster) for flag in (True, False))
    assert 0.0 < update <= 3.0 * other < 1.0
    sizes = np.array([1e3, 1e5, 1e6])
    for collective in COLLECTIVES:
        seconds = message_seconds(collective, sizes, 2, 1, cluster)
        assert (np.diff(seconds) > 0.0).all()
        assert (seconds < 10.0).all()


def test_a_plan_can_be_estimated_on_the_file(measured: Any) -> None:
    model = TransformerShape(
        name="gpt", source="made up for tests", family="gpt", num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=4,
        head_dim=16, ffn_size=256, vocabulary_size=128, max_sequence_length=32,
    )  # fmt: skip
    job = TrainingJob(model=model, global_batch=4, sequence_length=32, precision="fp32")
    stack, cluster = catalog.software("pytorch-eager-cpu"), catalog.cluster(measured[0])
    one, two = (estimate(plan, job, cluster, stack).step_seconds for plan in (Plan(), Plan(dp=2)))
    assert 0.0 < one < 10.0
    assert 0.0 < two < 10.0


def test_progress_runs_from_nothing_to_all(measured: Any) -> None:
    fractions = [fraction for _, fraction in measured[2]]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert measured[2][-1] == ("done", 1.0)


def test_what_exists_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "here.toml"
    path.write_text("kept")
    with pytest.raises(ValueError, match=r"here\.toml: exists already; give another name"):
        calibrate(path, effort=QUICK)
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    ("path", "told"), [("nowhere/here.toml", "there is no folder"), ("here.json", r"must end in \.toml")]
)
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path, path: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        calibrate(tmp_path / path, effort=QUICK)


def test_too_few_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_ranks: must be at least 1, got 0"):
        calibrate(tmp_path / "here.toml", num_ranks=0)


def test_a_failed_calibration_leaves_nothing(tmp_path: Path) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise LaunchError("rank 1 failed")

    with pytest.raises(LaunchError, match="rank 1 failed"):
        calibrate(tmp_path / "here.toml", effort=QUICK, launcher=fails)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    """The third launch is interrupted; the next run measures what is left, and the file tells of all."""
    output, launched = tmp_path / "here.toml", []

    def launcher(body: Any, values: Any, num_ranks: int, **_: Any) -> Any:
        launched.append(values)
        if len(launched) == 3:
            raise KeyboardInterrupt
        found = {"gemm": "gemm", "attention": "attention", "elements": "elementwise"}
        kinds = {kind for name, kind in found.items() if values.get(name)}
        kinds |= {"update", "launch"} if values.get("parameters") else set()
        rows = messages()["rows"] if "num_bytes" in values else [row for row in ROWS if row["kind"] in kinds]
        return [RESULT | {"rows": rows}] * num_ranks

    with pytest.raises(KeyboardInterrupt):
        calibrate(output, num_ranks=2, effort=QUICK, device="cpu", launcher=launcher)
    assert not output.exists()
    assert len(list(tmp_path.iterdir())) == 1
    spec = calibrate(output, num_ranks=2, effort=QUICK, device="cpu", launcher=launcher)
    assert list(tmp_path.iterdir()) == [output]
    assert spec.kernels is not None
    assert spec.kernels.gemm["fp32"].fit.num_points > 0
    assert len({str(values) for values in launched}) == len(launched) - 1  # the interrupted one alone ran twice


def test_known_rates_are_found_again() -> None:
    """Times made by a machine of 50 GFLOP/s and 20 GB/s whose messages take 100 us and 2 GB/s."""
    spec = describe(Samples(([samples(), samples()],), ([messages(), messages()],)), 2)
    assert spec.accelerator is not None
    assert not isinstance(spec.accelerator, str)
    curves = spec.kernels
    assert curves is not None
    peak = spec.accelerator.flops_per_second("fp32")
    assert curves.gemm["fp32"].compute_efficiency_fraction * peak == pytest.approx(50e9, rel=0.1)
    bandwidth = spec.accelerator.memory_bytes_per_second
    assert curves.elementwise.memory_efficiency_fraction * bandwidth == pytest.approx(20e9, rel=0.1)
    (tier,) = spec.tiers
    assert tier.curves is not None
    reduce = tier.curves.collectives["all_reduce"]
    assert reduce.latency_seconds[0] == pytest.approx(100e-6, rel=0.2)
    assert "3 were repeated" in spec.notes


RESULT: dict[str, Any] = {
    "num_left_out": 1, "num_contended": 0, "device": "cpu", "device_name": "", "device_bytes": 0.0, "torch": "2.13",
}  # fmt: skip


def kernel_rows() -> list[dict[str, Any]]:
    gemm = [
        {"kind": "gemm", "dtype": "fp32", "m": m, "n": n, "k": k, "seconds": 2.0 * m * n * k / 50e9 + 2e-6}
        for m in (64, 256, 1024) for n in (256, 1024) for k in (256, 1024)
    ]  # fmt: skip
    attention = [
        {"kind": "attention", "dtype": "fp32", "direction": direction, "batch": 2, "heads": 4, "length": length,
         "head_dim": 64, "seconds": factor * 2.0 * 8 * length * length * 64 / 30e9 + 1e-5}
        for length in (64, 128, 256, 512) for direction, factor in (("forward", 1.0), ("both", 3.5))
    ]  # fmt: skip
    streams = [
        {"kind": "elementwise", "kernel": kernel, "num_bytes": size, "seconds": size / 20e9 + 1e-6}
        for size in (1e5, 3e5, 1e6, 3e6, 1e7) for kernel in ("gelu", "update", "add")
    ]  # fmt: skip
    updates = [{"kind": "update", "num_bytes": size, "seconds": size / 15e9} for size in (1e5, 1e6, 1e7)]
    return [*gemm, *attention, *streams, *updates, {"kind": "launch", "seconds": 3e-6}]


ROWS = kernel_rows()


def samples() -> dict[str, Any]:
    return RESULT | {"rows": ROWS, "num_left_out": 2}


def messages() -> dict[str, Any]:
    rows = [
        {"op": op, "num_bytes": size, "seconds": 100e-6 + size / 2e9}
        for op in COLLECTIVES for size in (1024, 16384, 262144, 1048576, 4194304, 16777216)
    ]  # fmt: skip
    return RESULT | {"rows": rows}
