"""Kernel calibration records of every device in the measured tables, and their pool."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from benchmarks.grouped_records import Grouped
from benchmarks.tables import GPUS, Table
from planner.cost.kernels import Rates, attention_seconds, elementwise_seconds, gemm_seconds
from planner.work.ops import Elementwise, Gemm
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.attainable import attainable_share
from profiles.calibration import (
    Attainable,
    AttentionCurve,
    ElementwiseCurve,
    Fit,
    GemmCurve,
    KernelCurves,
    Sustained,
)
from profiles.record import Record
from validate.calibration.fit import Origin, fit_attention, fit_elementwise, fit_gemm

Curve = TypeVar("Curve", GemmCurve, AttentionCurve, ElementwiseCurve)
AIC = "ai-dynamo/aiconfigurator@095f58a (Apache-2.0)"
VIDUR = "microsoft/vidur@7d47513 (MIT)"
DATE = "2024 to 2026"
"""The tables do not date their rows; these are the years of the software releases in them."""
SIBLINGS: Mapping[str, tuple[str, ...]] = {
    "a100-sxm-80gb": ("a100-sxm-40gb", "a100-pcie-80gb", "a100-pcie-40gb", "a800-sxm-80gb"),
    "h100-sxm": ("h200-sxm", "h800-sxm", "gh200-96gb", "gh200-144gb", "h100-96gb-hbm2e"),
    "gb300": ("b300-sxm",),
    "v100-sxm-32gb": ("v100-sxm-16gb", "v100-pcie-32gb"),
    "tpu-v5p": ("tpu-v2", "tpu-v3", "tpu-v4", "tpu-v5e", "tpu-v6e", "tpu-7x"),
}
"""Devices with the same chip as a measured one; a curve of fractions carries over to their own peaks."""
NOT_POOLED = ("arc-pro-b60",)
"""Its products are of constant data, which says little of training on another device."""
LEAST_ROWS = 40
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Errors:
    """|predicted / measured - 1| of every row of one device under the mean of all other devices' curves."""

    by_device: Mapping[str, NDArray[np.float64]]

    def fit(self, source: str) -> Fit:
        """The record: every device weighs the same."""
        medians = [float(np.median(errors)) for errors in self.by_device.values()]
        tails = [float(np.quantile(errors, 0.9)) for errors in self.by_device.values()]
        return Fit(
            machine="geometric mean of " + ", ".join(self.by_device),
            date=DATE,
            num_points=sum(len(errors) for errors in self.by_device.values()),
            held_out_median_error_fraction=float(np.mean(medians)),
            held_out_p90_error_fraction=float(np.mean(tails)),
            source=f"{source}; error on each device of the mean of the others",
        )


def mean_of(curves: Sequence[Record], fit: Fit | None, **fixed: float) -> dict[str, Any]:
    """Geometric mean of each field that all curves state (arithmetic where it is zero somewhere)."""
    values: dict[str, Any] = {"fit": fit}
    for name in type(curves[0]).model_fields:
        if name == "fit":
            continue
        stated = [getattr(curve, name) for curve in curves]
        if None in stated:
            continue
        column = np.array(stated, dtype=float)
        values[name] = float(np.exp(np.log(column).mean()) if (column > 0).all() else column.mean())
    return values | fixed


class Kernels:
    """Kernel curves of every device in the tables, and their pool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gemm_table = tables.read_table(folder / "gemm.csv.gz")
        self.attention_table = tables.read_table(folder / "attention_prefill.csv.gz")
        self.elementwise_table = tables.read_table(folder / "mem_bound.csv.gz")
        self.published = tomllib.loads((HERE / "published_curves.toml").read_text(encoding="utf-8"))

    def records(self) -> list[KernelCurves]:
        """One record a device with enough rows, then the pool."""
        gemm = {dtype: self._gemm(dtype) for dtype in tables.RANDOM_DATA_BACKENDS}
        attention = {family: self._attention(family) for family in ("flash-2", "flash-3")}
        elementwise = self._elementwise()
        pool = self._pool(
            {dtype: _pooled(curves) for dtype, curves in gemm.items()},
            {family: _pooled(curves) for family, curves in attention.items()},
            _pooled(elementwise),
        )
        names = [name for name in GPUS.values() if name in gemm["bf16"]]
        records = [self._record(name, gemm, attention, elementwise, pool) for name in names] + [pool]
        grouped = Grouped.of(self.folder, gemm["bf16"], DATE, AIC)
        return [record.model_copy(update={"grouped_gemm": grouped.curves(record.gemm)}) for record in records]

    def _gemm(self, dtype: str) -> dict[str, GemmCurve]:
        curves = {}
        for device, accelerator, part in self._gemm_parts(dtype):
            source = f"{AIC}; {VIDUR}" if "vidur_torch" in part["backend"] else AIC
            curves[device] = fit_gemm(
                part["m"], part["n"], part["k"], tables.seconds(part), _rates(accelerator, dtype), dtype,
                Origin(device, DATE, source), weights=tables.equal_weights(part["backend"]), **self._misaligned(),
            )  # fmt: skip
        return curves

    def _gemm_parts(self, dtype: str) -> list[tuple[str, Accelerator, Table]]:
        parts = []
        for gpu, device in GPUS.items():
            accelerator = catalog.accelerator(device)
            part = tables.gemm_rows(self.gemm_table, gpu, dtype, accelerator.cache_bytes or 0.0)
            if len(part["m"]) >= LEAST_ROWS and dtype in accelerator.peak_flops_per_second:
                parts.append((device, accelerator, part))
        return parts

    def _attention(self, family: str) -> dict[str, AttentionCurve]:
        ratio = self.published["backward"]["ratio"]
        return {
            device: fit_attention(
                tables.attention_operations(part), tables.seconds(part), _rates(accelerator, "bf16"),
                Origin(device, DATE, AIC), backward_ratio=ratio, weights=tables.equal_weights(part["backend"]),
            )
            for device, accelerator, part in self._attention_parts(family)
        }  # fmt: skip

    def _attention_parts(self, family: str) -> list[tuple[str, Accelerator, Table]]:
        parts = [
            (device, catalog.accelerator(device), tables.attention_rows(self.attention_table, gpu, family))
            for gpu, device in GPUS.items()
        ]
        return [part for part in parts if len(part[2]["batch"]) >= LEAST_ROWS]

    def _elementwise(self) -> dict[str, ElementwiseCurve]:
        return {
            device: fit_elementwise(
                part["bytes_min"], tables.seconds(part), accelerator.memory_bytes_per_second,
                Origin(device, DATE, f"{AIC}; {VIDUR}"),
                weights=tables.streaming_weights(part, accelerator.cache_bytes or 0.0),
            )
            for device, accelerator, part in self._elementwise_parts()
        }  # fmt: skip

    def _elementwise_parts(self) -> list[tuple[str, Accelerator, Table]]:
        parts = []
        for gpu, device in GPUS.items():
            accelerator = catalog.accelerator(device)
            part = tables.elementwise_rows(self.elementwise_table, gpu, accelerator.cache_bytes or 0.0)
            if len(part["op"]) >= LEAST_ROWS:
                parts.append((device, accelerator, part))
        return parts

    def _pool(
        self,
        gemm: Mapping[str, Mapping[str, GemmCurve]],
        attention: Mapping[str, Mapping[str, AttentionCurve]],
        elementwise: Mapping[str, ElementwiseCurve],
    ) -> KernelCurves:
        ratio = self.published["backward"]["ratio"]
        pooled_gemm = {
            dtype: GemmCurve(
                **mean_of(list(curves.values()), self._gemm_errors(dtype, curves).fit(AIC), **self._misaligned())
            )
            for dtype, curves in gemm.items()
        }
        pooled_attention = {
            family: AttentionCurve(
                **mean_of(list(curves.values()), self._attention_errors(family, curves).fit(AIC), backward_ratio=ratio)
            )
            for family, curves in attention.items()
        }
        errors = self._elementwise_errors(elementwise).fit(f"{AIC}; {VIDUR}")
        return KernelCurves(
            name="pool",
            source=AIC,
            notes="for devices that nobody measured; " + self._notes(),
            gemm=pooled_gemm,
            attention={"flash-1": self._published_attention("a100-sxm-80gb")["flash-1"], **pooled_attention},
            elementwise=ElementwiseCurve(**mean_of(list(elementwise.values()), errors)),
            sustained=self._sustained("pool"),
            attainable=attainable(gemm["bf16"]),
        )

    def _gemm_errors(self, dtype: str, curves: Mapping[str, GemmCurve]) -> Errors:
        errors = {}
        for device, accelerator, part in self._gemm_parts(dtype):
            if device not in curves:
                continue
            others = [curve for name, curve in curves.items() if name != device]
            mean = GemmCurve.model_construct(**mean_of(others, None))
            op = Gemm(part["m"], part["n"], part["k"], dtype=dtype)
            errors[device] = _error(gemm_seconds(op, mean, _rates(accelerator, dtype)), part)
        return Errors(errors)

    def _attention_errors(self, family: str, curves: Mapping[str, AttentionCurve]) -> Errors:
        errors = {}
        for device, accelerator, part in self._attention_parts(family):
            if device not in curves:
                continue
            others = [curve for name, curve in curves.items() if name != device]
            mean = AttentionCurve.model_construct(**mean_of(others, None))
            op = tables.attention_operations(part)
            errors[device] = _error(attention_seconds(op, mean, _rates(accelerator, "bf16")), part)
        return Errors(errors)

    def _elementwise_errors(self, curves: Mapping[str, ElementwiseCurve]) -> Errors:
        errors = {}
        for device, accelerator, part in self._elementwise_parts():
            if device not in curves:
                continue
            others = [curve for name, curve in curves.items() if name != device]
            mean = ElementwiseCurve.model_construct(**mean_of(others, None))
            op = Elementwise(part["bytes_min"])
            errors[device] = _error(elementwise_seconds(op, mean, accelerator.memory_bytes_per_second), part)
        return Errors(errors)

    def _record(
        self,
        device: str,
        gemm: Mapping[str, Mapping[str, GemmCurve]],
        attention: Mapping[str, Mapping[str, AttentionCurve]],
        elementwise: Mapping[str, ElementwiseCurve],
        pool: KernelCurves,
    ) -> KernelCurves:
        """What was measured on `device`, and the pool's curves of what was not."""
        own = {family: curves[device] for family, curves in attention.items() if device in curves}
        own |= self._published_attention(device)
        return KernelCurves(
            name=device,
            accelerators=(device, *SIBLINGS.get(device, ())),
            source=AIC,
            notes=self._notes(),
            gemm={dtype: curves[device] for dtype, curves in gemm.items() if device in curves},
            attention=dict(sorted(own.items())) or pool.attention,
            elementwise=elementwise.get(device, pool.elementwise),
            sustained=self._sustained(device),
        )

    def _published_attention(self, device: str) -> dict[str, AttentionCurve]:
        published = self.published["attention"].get(device, {})
        return {family: AttentionCurve(**values) for family, values in published.items()}

    def _sustained(self, name: str) -> dict[str, Sustained]:
        return {dtype: Sustained(**values) for dtype, values in self.published["sustained"].get(name, {}).items()}

    def _misaligned(self) -> dict[str, float]:
        published = self.published["misaligned"]
        return {"misaligned_factor": published["factor"], "misaligned_batched_factor": published["batched_factor"]}

    def _notes(self) -> str:
        misaligned, backward = self.published["misaligned"], self.published["backward"]
        return (
            f"misaligned_factor: {misaligned['source']}; misaligned_batched_factor: {misaligned['batched_source']}; "
            f"backward_ratio: {backward['source']}"
        )


def _pooled(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    return {device: curve for device, curve in curves.items() if device not in NOT_POOLED}


def _rates(accelerator: Accelerator, dtype: str) -> Rates:
    return Rates(accelerator.flops_per_second(dtype), accelerator.memory_bytes_per_second)


def _error(predicted: NDArray[np.float64], part: Table) -> NDArray[np.float64]:
    return np.abs(predicted / tables.seconds(part) - 1.0)


def attainable(gemm: Mapping[str, GemmCurve]) -> Attainable:
    """How the fitted rates of devices follow from the best product that others reached on them."""
    ratios = {
        device: curve.compute_efficiency_fraction / share
        for device, curve in gemm.items()
        if (share := attainable_share(catalog.accelerator(device))) is not None
    }
    logs = np.log(list(ratios.values()))
    others = (np.sum(logs) - logs) / (len(logs) - 1)
    errors = np.abs(np.exp(others - logs) - 1.0)
    return Attainable(
        share_fraction=float(np.exp(np.mean(logs))),
        fit=Fit(
            machine="geometric mean of " + ", ".join(ratios),
            date=DATE,
            num_points=len(ratios),
            held_out_median_error_fraction=float(np.median(errors)),
            held_out_p90_error_fraction=float(np.quantile(errors, 0.9)),
            source=f"{AIC} over stas00/ml-engineering@744d01e1; each device by the others",
        ),
    )
