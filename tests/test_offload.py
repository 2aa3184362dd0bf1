"""What lives on the host: fewer bytes on the device, copies that cost what compute does not hide."""

from dataclasses import replace
from typing import Any

import pytest

from planner.choose.legality import check_plan
from planner.choose.losses import losses
from planner.cost.estimate import Estimate, estimate
from planner.cost.inventory import inventory
from planner.cost.kernels import kernel_seconds
from planner.cost.memory import memory, stage_memory
from planner.offload import Offload
from planner.plan import Plan, PlanGrid
from planner.work.ops import HostCopy, HostUpdate
from profiles.catalog import cluster, model, software
from profiles.cluster import Cluster
from profiles.units import GIGA
from profiles.workload import TrainingJob

JOB = TrainingJob(model=model("llama3-8b"), global_batch=64, sequence_length=8192)
STACK = software("torchtitan")
NODE = cluster("dgx-h100")
PLAN = Plan(dp=8, zero_stage=3)


def priced(offload: Offload, devices: Cluster = NODE, **changes: Any) -> Estimate:
    """The plan with `offload` and changes."""
    return estimate(replace(PLAN, offload=offload, **changes), JOB, devices, STACK)


def with_link(bytes_per_second: float | None) -> Cluster:
    """The node with another rate to its host."""
    accelerator = NODE.accelerator.model_copy(update={"host_bytes_per_second": bytes_per_second})
    return NODE.model_copy(update={"accelerator": accelerator})


def test_what_is_offloaded_leaves_the_device() -> None:
    on = priced(Offload.NOTHING).memory
    optimizer, activations, parameters = (
        priced(part).memory for part in (Offload.OPTIMIZER, Offload.ACTIVATIONS, Offload.PARAMETERS)
    )
    assert optimizer.optimizer_bytes == optimizer.gradients_bytes == 0.0
    assert parameters.weights_bytes == 0.0
    assert parameters.gathered_bytes == on.gathered_bytes
    assert activations.activations_bytes < on.activations_bytes / 8
    assert on.activations_bytes == optimizer.activations_bytes


def test_gradients_that_are_not_sharded_stay() -> None:
    plan = Plan(dp=8, zero_stage=1, offload=Offload.OPTIMIZER)
    found = memory(plan, JOB, software("megatron-core"))
    assert found.optimizer_bytes == 0.0
    assert found.gradients_bytes > 0.0


def test_a_fast_link_hides_copies_and_a_slow_one_does_not() -> None:
    plain = priced(Offload.NOTHING).step_seconds
    both = Offload.ACTIVATIONS | Offload.PARAMETERS
    steps = [priced(both, with_link(rate * GIGA)).step_seconds for rate in (1.0, 10.0, 100.0, 10_000.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(plain)
    assert steps[0] > 2.0 * plain


def test_the_host_updates_what_its_devices_share() -> None:
    """8.03 billion parameters at 0.26 ns each, and gradients and parameters over 8 links."""
    num_parameters = 8.03e9
    copies = 2.0 * 2.0 * num_parameters / 8 / (0.87 * 63.0 * GIGA)
    expected = 0.26e-9 * num_parameters + copies
    assert priced(Offload.OPTIMIZER).breakdown.optimizer_seconds == pytest.approx(expected, rel=0.01)
    update = HostUpdate(1e9, 1e-9)
    assert kernel_seconds(update, NODE) == pytest.approx(8.0)


def test_an_unknown_link_is_refused() -> None:
    faults = check_plan(replace(PLAN, offload=Offload.OPTIMIZER), JOB, with_link(None))
    assert len(faults) == 1
    assert "host_gb_per_second" in faults[0]
    with pytest.raises(ValueError, match="not known"):
        kernel_seconds(HostCopy(1.0, 1.0), with_link(None))


@pytest.mark.parametrize("offload", [Offload.OPTIMIZER, Offload.ACTIVATIONS, Offload(7)])
@pytest.mark.parametrize("pp", [1, 2])
def test_the_inventory_and_the_losses_still_add_up(offload: Offload, pp: int) -> None:
    plan = replace(PLAN, dp=8 // pp, pp=pp, offload=offload, reshard_after_forward=pp == 1)
    answer = estimate(plan, JOB, NODE, STACK)
    items = inventory(plan, JOB, STACK, 0)
    for part, num_bytes in stage_memory(plan, JOB, STACK)[0].parts().items():
        assert sum(item.num_bytes for item in items if item.part == part) == pytest.approx(num_bytes, rel=1e-9), part
    assert sum(loss.seconds for loss in losses(answer, JOB, NODE, STACK)) == pytest.approx(answer.step_seconds)


def test_a_grid_gives_what_its_plans_give() -> None:
    plans = [replace(PLAN, offload=Offload(code)) for code in range(8)]
    at_once = estimate(PlanGrid.of(plans), JOB, NODE, STACK)
    for row, plan in enumerate(plans):
        alone = estimate(plan, JOB, NODE, STACK)
        assert at_once.step_seconds[row] == pytest.approx(alone.step_seconds)
        assert at_once.memory.device_bytes[row] == pytest.approx(alone.memory.device_bytes)


def test_names_are_read_and_written() -> None:
    assert Offload.parse("optimizer, parameters").words == "optimizer,parameters"
    assert Offload.parse("nothing") == Offload.NOTHING
    with pytest.raises(ValueError, match="'disk' is not one of nothing, optimizer"):
        Offload.parse("disk")
