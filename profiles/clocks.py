"""What a lower power limit leaves of the compute rates that were measured on the same chip."""

from profiles.accelerator import Accelerator
from profiles.calibration import KernelCurves, Sustained


def clock_fraction(power_watts: float, measured_power_watts: float) -> float:
    """(P / P0)**(1/3), at most 1: what the clock under load falls to under a lower power limit.

    Switching power is C V**2 f and the voltage a clock needs grows with it, so that power grows with its cube
    [Chandrakasan 1992, doi:10.1109/4.126534, section II].
    """
    return min(1.0, (power_watts / measured_power_watts) ** (1.0 / 3.0))


def under_power_limit(curves: KernelCurves, device: Accelerator, measured: Accelerator) -> KernelCurves:
    """`curves` of the `measured` accelerator as `device`, another board of the same chip, sustains them.

    The limit binds in the long products of a training step, as what a step sustains says of the chip measured.
    """
    if not (device.power_watts and measured.power_watts) or device.power_watts >= measured.power_watts:
        return curves
    factor = clock_fraction(device.power_watts, measured.power_watts)
    known = curves.sustained or {dtype: Sustained(fraction=1.0, fit=curve.fit) for dtype, curve in curves.gemm.items()}
    limited = {name: one.model_copy(update={"fraction": one.fraction * factor}) for name, one in known.items()}
    return curves.model_copy(update={"sustained": limited})
