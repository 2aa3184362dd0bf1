"""Curves of expert products, from fused mixtures of experts: how far below plain products they stay."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.surface_fit import Floats, fit_physics
from planner.cost.libraries import product_peak
from planner.cost.roofline import smooth_max
from planner.work.forms import form_of
from planner.work.ops import ExpertLayer
from profiles.calibration import Fit, GemmCurve, GroupedGemmCurve
from profiles.units import MICRO
from validate.calibration.fit import Prior
from validate.score import columns
from validate.score.kernel_tables import Batch, read_batches

LIBRARY, FORM = "trtllm", "bf16"
"""CUTLASS kernels, of which training stacks run relatives; others are Triton's, or convert formats besides."""
NOT_FITTED = ("a100-sxm-80gb",)
"""Measured with an engine of two years before the others, at a third of the rate."""
LEAST_ROWS_AN_EXPERT = 32.0
LEAST_IDEAL_SECONDS = 50 * MICRO
"""Smaller layers tell of launches and of weights, which training's do not consist of."""
PRIORS = {
    "ratio": Prior(0.9, 0.3),
    "num_tile_rows": Prior(64.0, 0.5),
    "launch_seconds": Prior(25 * MICRO, 0.7),
    "traffic_efficiency_fraction": Prior(0.6, 0.4, most=1.0),
}


@dataclass(frozen=True, slots=True)
class Layers:
    """Large fused layers of one device, and the curve of its plain products."""

    batch: Batch
    op: ExpertLayer
    plain: GemmCurve

    @classmethod
    def of(cls, batch: Batch, plain: GemmCurve) -> "Layers | None":
        """The rows of `batch` that count; None where there are none."""
        op = batch.op
        assert isinstance(op, ExpertLayer)
        ideal = op.flops / product_peak(batch.accelerator, form_of(FORM))
        chosen = (op.rows / op.experts >= LEAST_ROWS_AN_EXPERT) & (ideal >= LEAST_IDEAL_SECONDS)
        return cls(batch, op, plain) if chosen.any() else None

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """Which rows count."""
        ideal = self.op.flops / product_peak(self.batch.accelerator, form_of(FORM))
        return np.asarray((self.op.rows / self.op.experts >= LEAST_ROWS_AN_EXPERT) & (ideal >= LEAST_IDEAL_SECONDS))

    def predict(self, values: Mapping[str, float]) -> Floats:
        """Seconds of the chosen layers: products at `ratio` of the plain ones' rate, traffic, launches."""
        op, accelerator = self.op, self.batch.accelerator
        peak = product_peak(accelerator, form_of(FORM)) * self.plain.compute_efficiency_fraction * values["ratio"]
        padded = 1.0 + 0.5 * values["num_tile_rows"] * op.active_experts / op.rows
        bandwidth = accelerator.memory_bytes_per_second
        memory = op.product_bytes / (self.plain.memory_efficiency_fraction * bandwidth)
        products = smooth_max(op.flops * padded / peak, memory, self.plain.exponent)
        traffic = op.traffic_bytes / (values["traffic_efficiency_fraction"] * bandwidth)
        return np.asarray(products + traffic + values["launch_seconds"])[self.chosen]

    @property
    def seconds(self) -> Floats:
        """Measured, of the chosen layers."""
        return self.batch.seconds[self.chosen]


@dataclass(frozen=True, slots=True)
class Grouped:
    """What expert products keep of the rate of plain ones, on any device and in any format."""

    ratio: float
    num_tile_rows: float
    fit: Fit

    @classmethod
    def of(cls, folder: Path, plain: Mapping[str, GemmCurve], date: str, source: str) -> "Grouped":
        """One ratio and one tile for all devices in `plain` (of their 16-bit products).

        The held-out error is of each device's layers with the figures of the others.
        """
        layers = []
        for batch in read_batches(columns.read_table(folder / "moe.csv.gz"), Counter()):
            device = batch.accelerator.name
            if (batch.library, batch.form) == (LIBRARY, FORM) and device in plain and device not in NOT_FITTED:
                found = Layers.of(batch, plain[device])
                layers += [found] if found else []
        errors = []
        for index, one in enumerate(layers):
            values = _fit([*layers[:index], *layers[index + 1 :]])
            errors.append(np.abs(one.predict(values) / one.seconds - 1.0))
        values = _fit(layers)
        fit = Fit(
            machine=" and ".join(one.batch.accelerator.name for one in layers), date=date,
            num_points=sum(len(one.seconds) for one in layers),
            held_out_median_error_fraction=float(np.mean([np.median(error) for error in errors])),
            held_out_p90_error_fraction=float(np.mean([np.quantile(error, 0.9) for error in errors])),
            source=f"{source}: fused 16-bit layers of TensorRT-LLM, each device by the others; "
            f"{values['ratio']:.2f} of plain products",
        )  # fmt: skip
        return cls(values["ratio"], values["num_tile_rows"], fit)

    def curves(self, plain: Mapping[str, GemmCurve]) -> dict[str, GroupedGemmCurve]:
        """Format -> the curve of expert products on the device of `plain`."""
        return {
            dtype: GroupedGemmCurve(
                compute_efficiency_fraction=curve.compute_efficiency_fraction * self.ratio,
                memory_efficiency_fraction=curve.memory_efficiency_fraction,
                launch_seconds=curve.launch_seconds, num_tile_rows=self.num_tile_rows, exponent=curve.exponent,
                fit=self.fit,
            )
            for dtype, curve in plain.items()
        }  # fmt: skip


def _fit(layers: list[Layers]) -> dict[str, float]:
    seconds = np.concatenate([one.seconds for one in layers])

    def predict(values: Mapping[str, float], chosen: NDArray[np.int64]) -> Floats:
        return np.concatenate([one.predict(values) for one in layers])[chosen]

    return fit_physics(predict, seconds, PRIORS)
