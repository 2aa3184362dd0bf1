"""What the best product of a device says of its other kernels, where nobody measured them."""

import pytest

from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.attainable import attainable_share, within_attainable

UNMEASURED = [
    name
    for name in catalog.names("accelerators")
    if not catalog.kernel_curves(name).accelerators and catalog.accelerator(name).attainable_flops_per_second
]


@pytest.mark.parametrize("name", UNMEASURED)
def test_no_product_outruns_the_best_one_seen(name: str) -> None:
    device = catalog.accelerator(name)
    rate = catalog.cluster(name, 1).kernels.gemm["bf16"].compute_efficiency_fraction * device.flops_per_second("bf16")
    assert 0.7 * device.attainable_flops_per_second["bf16"] < rate < device.attainable_flops_per_second["bf16"]


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm", "b200-sxm", "gb200"])
def test_it_agrees_with_devices_that_were_measured(name: str) -> None:
    pool, device = catalog.kernel_curves("pool"), catalog.accelerator(name)
    rate = within_attainable(pool, device).gemm["bf16"].compute_efficiency_fraction
    assert rate == pytest.approx(catalog.kernel_curves(name).gemm["bf16"].compute_efficiency_fraction, rel=0.06)


def test_devices_without_such_a_product_keep_the_curves_of_the_pool() -> None:
    device = catalog.accelerator("alveo-u280")
    assert attainable_share(device) is None
    assert within_attainable(catalog.kernel_curves("pool"), device) == catalog.kernel_curves("pool")


def test_formats_and_kernels_move_together_and_nothing_else_does() -> None:
    pool, device = catalog.kernel_curves("pool"), catalog.accelerator("mi300x")
    moved = within_attainable(pool, device)
    pairs = [(getattr(moved, family), getattr(pool, family)) for family in ("gemm", "grouped_gemm", "attention")]
    factors = [
        new[name].compute_efficiency_fraction / old[name].compute_efficiency_fraction
        for new, old in pairs
        for name in old
    ]
    assert factors == pytest.approx([factors[0]] * len(factors))
    assert factors[0] < 0.75  # MI300X: half of its datasheet peak
    assert (moved.elementwise, moved.sustained) == (pool.elementwise, pool.sustained)
    assert all(new[name].launch_seconds == old[name].launch_seconds for new, old in pairs for name in old)


def test_more_than_the_peak_is_refused() -> None:
    device = catalog.accelerator("mi300x")
    beyond = device.model_dump() | {"attainable_flops_per_second": {"bf16": 2e15}}
    with pytest.raises(ValueError, match=r"attainable_tflops\.bf16 must be at most the peak"):
        Accelerator(**beyond)
