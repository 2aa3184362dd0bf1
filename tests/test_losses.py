"""The waterfall ends at the predicted step, and a loss grows with its cause."""

import pytest

from meshwise.waterfall import draw_waterfall
from planner.choose.losses import LOSS_WORDS, Loss, losses
from planner.cost.estimate import estimate
from planner.cost.metrics import mfu
from planner.plan import Plan, Recompute
from profiles.cluster import Cluster
from profiles.workload import TrainingJob
from tests.scenes import cluster, job, stack

SCENES = [
    (Plan(dp=2, tp=4, pp=2), job()),
    (Plan(dp=16, recompute=Recompute.FULL, zero_stage=1), job()),
    (Plan(pp=4, dp=4, vp=2, schedule="interleaved"), job()),
    (Plan(dp=16, ep=8), job("mixtral-8x7b")),
    (Plan(dp=16), job("deepseek-v2-lite")),
    (Plan(dp=16), job("resnet-50", sequence_length=1)),
]


def lost(plan: Plan, work: TrainingJob, devices: Cluster, **changes: object) -> dict[str, float]:
    software = stack(**changes)
    found = losses(estimate(plan, work, devices, software), work, devices, software)
    return {loss.name: loss.seconds for loss in found}


@pytest.mark.parametrize(("plan", "work"), SCENES, ids=lambda value: getattr(value, "name", str(value))[:24])
def test_losses_add_up_to_the_step(plan: Plan, work: TrainingJob) -> None:
    devices = cluster(16)
    answer = estimate(plan, work, devices, stack())
    found = losses(answer, work, devices, stack())
    assert sum(loss.seconds for loss in found) == pytest.approx(answer.step_seconds, rel=1e-7)
    assert found[0].seconds / answer.step_seconds == pytest.approx(mfu(answer.step_seconds, work, devices), rel=1e-12)
    assert all(loss.words == LOSS_WORDS[loss.name] for loss in found)


@pytest.mark.parametrize(("plan", "work"), SCENES, ids=lambda value: getattr(value, "name", str(value))[:24])
def test_kernels_only_lose(plan: Plan, work: TrainingJob) -> None:
    """Nothing runs above the datasheet's peak; only FLOPs that are not run can be a gain."""
    found = lost(plan, work, cluster(16))
    assert [name for name, seconds in found.items() if seconds < -1e-9] in ([], ["uncounted"])


def test_one_stage_has_no_imbalance_and_no_bubble() -> None:
    found = lost(Plan(dp=16), job(), cluster(16))
    assert "imbalance" not in found
    assert "idle" not in found
    assert lost(Plan(pp=16), job(), cluster(16))["imbalance"] > 0.0


def test_clocks_under_load_are_a_loss_of_their_own() -> None:
    plan, work, devices = Plan(dp=16), job(), cluster(16, "dgx-h100")
    fraction = devices.kernels.sustained_fraction("bf16")
    found = lost(plan, work, devices)
    assert fraction < 1.0
    run = found["ideal"] + found["uncounted"]
    assert found["clock"] == pytest.approx(run * (1.0 / fraction - 1.0), rel=1e-6)


def test_slower_launches_lose_more_to_the_host() -> None:
    plan, work = Plan(dp=16), job(global_batch=16)
    before = lost(plan, work, cluster(16), host_seconds_per_launch=0.0)
    after = lost(plan, work, cluster(16), host_seconds_per_launch=1e-4)
    assert "host" not in before
    assert after["host"] > 0.0
    assert after["matrix_products"] == before["matrix_products"]


def test_the_picture_has_a_bar_for_each_loss_and_the_step() -> None:
    found = [Loss("ideal", 1.0), Loss("uncounted", -0.1), Loss("matrix_products", 0.4), Loss("idle", 0.2)]
    axes = draw_waterfall(found, "a title").axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.0, -0.1, 0.4, 0.2, 1.5])
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "predicted step"
