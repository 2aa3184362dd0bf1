"""Compute rates of a device whose kernels nobody measured, from the best matrix product that was seen on it."""

from typing import Final

from profiles.accelerator import Accelerator
from profiles.calibration import KernelCurves

_MEASURED_DTYPE: Final = "bf16"


def attainable_share(device: Accelerator) -> float | None:
    """Share of the datasheet peak that the best of many bf16 products reached on `device`; None: nobody measured it."""
    reached = device.attainable_flops_per_second.get(_MEASURED_DTYPE)
    return None if reached is None else reached / device.flops_per_second(_MEASURED_DTYPE)


def within_attainable(curves: KernelCurves, device: Accelerator) -> KernelCurves:
    """`curves` of the pool, their compute rates moved to what `device` attains of its peak.

    Vendors' peaks are not alike: the best product reaches half of one and nearly all of another. What keeps
    products from the peak (power, issue, clocks) keeps attention and narrower formats from it as well.
    """
    share = attainable_share(device)
    if share is None or curves.attainable is None:
        return curves
    factor = curves.attainable.share_fraction * share / curves.gemm[_MEASURED_DTYPE].compute_efficiency_fraction
    scaled = {
        family: {
            name: curve.model_copy(update={"compute_efficiency_fraction": curve.compute_efficiency_fraction * factor})
            for name, curve in getattr(curves, family).items()
        }
        for family in ("gemm", "grouped_gemm", "attention")
    }
    return curves.model_copy(update=scaled)
