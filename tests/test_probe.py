"""Small training steps correct a calibration where they agree with each other, and say so in its notes."""

from pathlib import Path
from typing import Any

import pytest

from planner.cost.estimate import estimate
from profiles import catalog
from profiles.cluster import ClusterSpec
from profiles.model import TransformerShape
from profiles.writer import to_toml
from tests.test_calibrate import messages, samples
from validate.calibration.describe import describe
from validate.calibration.fit import Origin
from validate.calibration.probe import CPU_PROBES, GPU_PROBES, probe
from validate.calibration.sampling import Launcher, Samples
from validate.launch import LaunchError
from validate.runnable import RunSpec

STACK = catalog.software("pytorch-eager-cpu")


@pytest.fixture(scope="module")
def machine() -> ClusterSpec:
    """Two cores whose kernels and messages are known exactly."""
    return describe(Samples(([samples(), samples()],), ([messages(), messages()],)), 2)


class Machine:
    """A launcher that takes as long as the prices say, times `slower` for compute, and `odd` for one model."""

    def __init__(self, spec: ClusterSpec, slower: float, foreign_cores: float = 0.0, odd: float = 1.0) -> None:
        self.cluster, self.slower, self.foreign_cores, self.odd = catalog.expand(spec, 2), slower, foreign_cores, odd
        self.launched: list[RunSpec] = []

    def __call__(self, body: Any, values: Any, num_ranks: int, **_: Any) -> list[dict[str, Any]]:
        spec = RunSpec.from_json(values)
        self.launched.append(spec)
        factor = self.slower * (self.odd if len(self.launched) == 1 else 1.0)
        parts = estimate(spec.plan, spec.job, self.cluster, STACK).breakdown.parts()
        spans, clock = [], 0.0
        for name in ("forward", "backward", "optimizer", "tp", "cp", "dp"):
            seconds = float(parts[name]) * (factor if name in ("forward", "backward") else 1.0)
            spans.append([name, clock, clock + seconds])
            clock += seconds
        wall = clock + float(parts["idle"] + parts["pp"]) * factor
        busy = (num_ranks + self.foreign_cores) * wall
        usage = {"wall_seconds": wall, "own_core_seconds": wall, "busy_core_seconds": busy,
                 "num_preemptions": 0}  # fmt: skip
        result = {
            "coordinates": {"pp": 0, "dp": 0, "tp": 0},
            "losses": [1.0],
            "steps": [{"usage": usage, "spans": spans}],
        }
        return [result] * num_ranks


def probed(spec: ClusterSpec, machine: Launcher) -> ClusterSpec:
    return probe(
        spec, 2, num_steps=1, precision="fp32", device="cpu", launcher=machine, timeout_seconds=1.0,
        origin=Origin("a machine", "2026-11-21", "training steps"), tell=lambda fraction: None,
    )  # fmt: skip


def test_steps_that_agree_correct_the_prices(machine: ClusterSpec, tmp_path: Path) -> None:
    launcher = Machine(machine, slower=1.3)
    mine = probed(machine, launcher)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(mine))
    job, plan = launcher.launched[-1].job, launcher.launched[-1].plan
    before, after = (
        float(estimate(plan, job, cluster, STACK).breakdown.forward_seconds)
        for cluster in (catalog.expand(machine, 2), catalog.cluster(path, 2))
    )
    assert after / before == pytest.approx(1.3, rel=0.08)
    assert "which are applied" in mine.notes
    degrees = {(spec.plan.dp, spec.plan.tp, spec.plan.pp, spec.plan.cp) for spec in launcher.launched}
    assert degrees == {(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)}
    assert {spec.plan.zero_stage for spec in launcher.launched} == {0, 3}


def test_prices_that_were_right_stay(machine: ClusterSpec) -> None:
    mine = probed(machine, Machine(machine, slower=1.0, odd=1.6))
    assert mine.tiers == machine.tiers
    assert mine.kernels == machine.kernels
    assert "which are not applied" in mine.notes


def test_steps_beside_other_processes_do_not_count(machine: ClusterSpec) -> None:
    launcher = Machine(machine, slower=2.0, foreign_cores=1.0)
    mine = probed(machine, launcher)
    assert mine.kernels == machine.kernels
    assert "met other processes" in mine.notes


def test_steps_that_fail_leave_the_calibration(machine: ClusterSpec) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise LaunchError("rank 1 failed")

    mine = probed(machine, fails)
    assert mine.kernels == machine.kernels
    assert "training steps to check it failed: rank 1 failed" in mine.notes


def test_probes_are_not_what_is_validated() -> None:
    shapes = {(probe.layers, probe.hidden) for probe in (*CPU_PROBES, *GPU_PROBES)}
    known = {
        (model.num_layers, model.hidden_size)
        for model in map(catalog.model, catalog.names("models")) if isinstance(model, TransformerShape)
    }  # fmt: skip
    assert not shapes & known
