"""Library calibration records, one for each family of chips: `python -m benchmarks.library_records TABLE_DIR DIR`.

TABLE_DIR holds gemm, attention_prefill, attention_decode and moe (.csv.gz), described in docs/calibration.md. Prints of
every table the median error of shapes left out, and of devices left out.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernel_records import AIC, DATE, VIDUR
from benchmarks.surface_fit import Design, Floats, Knots, fit_physics, folds
from planner.cost.libraries import (
    decode_seconds,
    expert_seconds,
    prefill_seconds,
    product_peak,
    product_seconds,
)
from planner.cost.roofline import Rates
from planner.cost.surfaces import TILES, Features, decode_features, expert_features, gemm_features, prefill_features
from planner.work.forms import form_of
from planner.work.ops import Attention, DecodeAttention, ExpertLayer, Gemm
from profiles.calibration import Fit
from profiles.libraries import DecodeCurve, ExpertCurve, LibraryCurves, Measured, PrefillCurve, ProductCurve
from profiles.record import Record
from profiles.units import MICRO, NANO
from profiles.writer import to_toml
from validate.columns import read_table
from validate.fit import Prior
from validate.kernel_tables import Batch, Skipped, read_batches

FAMILIES: Mapping[str, Mapping[str, str]] = {
    "ampere": {
        **dict.fromkeys(
            ("a100-sxm-80gb", "a100-sxm-40gb", "a100-pcie-80gb", "a100-pcie-40gb", "a800-sxm-80gb"), "a100-sxm-80gb"
        ),
        "a30": "a100-sxm-80gb",
    },
    "ampere-gddr": {"a40": "a40", "a10": "a40", "a10g": "a40", "rtx-3090": "a40"},
    "ada": dict.fromkeys(("l40s", "l4", "rtx-4090"), "l40s"),
    "hopper": dict.fromkeys(
        (
            "h100-sxm", "h100-pcie", "h100-nvl", "h100-96gb-hbm2e", "h200-sxm", "h200-nvl", "h800-sxm", "h20",
            "gh200-144gb", "gh200-96gb",
        ),
        "h100-sxm",
    ),
    "blackwell": {"b200-sxm": "b200-sxm", "gb200": "gb200", "gb300": "gb300", "b300-sxm": "gb300"},
    "blackwell-gddr": dict.fromkeys(("rtx-pro-6000", "rtx-5090"), "rtx-pro-6000"),
    "xe2": {"arc-pro-b60": "arc-pro-b60"},
}  # fmt: skip
"""Family -> its members -> the member measured that stands in for each."""
LEAST_ROWS = 100
NUM_FOLDS = 3

_M = (0.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0)
_WIDTH = (5.0, 7.0, 9.0, 10.5, 12.0, 13.5, 16.0)
_TILES_A_CORE = (-8.0, -5.0, -4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
_WASTE = (0.0, 0.7)
GEMM_TERMS: Knots = {
    ("m", "n"): (_M, _WIDTH),
    ("m", "k"): (_M, _WIDTH),
    ("n", "k"): (_WIDTH, _WIDTH),
    ("tiles",): (_TILES_A_CORE,),
    **{
        (f"{what}_{rows}x{columns}{when}",): (_WASTE,)
        for rows, columns in TILES
        for what, when in (("idle", ""), ("idle", "_early"), ("rows", ""))
    },
}
_HEAD_DIM = (6.0, 7.0, 7.585, 8.0, 9.0)
_YES_NO = (0.0, 1.0)
_TOKENS = (0.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 17.0)
_HEADS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
_GROUP = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
PREFILL_TERMS: Knots = {
    ("tokens", "sequences_heads"): (_TOKENS, _HEADS),
    ("tokens", "head_dim"): (_TOKENS, _HEAD_DIM),
    ("tokens", "group"): (_TOKENS, _GROUP),
    ("head_dim", "group"): (_HEAD_DIM, _GROUP),
    ("head_dim", "sequences_heads"): (_HEAD_DIM, _HEADS),
    ("tokens", "windowed"): (_TOKENS, _YES_NO),
    ("head_dim", "windowed"): (_HEAD_DIM, _YES_NO),
    ("past", "tokens"): ((0.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0), _TOKENS),
}
_KEYS = (0.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 17.0)
_KV_HEADS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 17.0)
_KV_BYTES = (10.0, 14.0, 16.0, 18.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 32.0, 34.0)
DECODE_TERMS: Knots = {
    ("sequences_kv_heads", "keys"): (_KV_HEADS, _KEYS),
    ("sequences_kv_heads", "group"): (_KV_HEADS, _GROUP),
    ("keys", "group"): (_KEYS, _GROUP),
    ("head_dim", "group"): (_HEAD_DIM, _GROUP),
    ("keys", "windowed"): (_KEYS, _YES_NO),
    ("head_dim", "windowed"): (_HEAD_DIM, _YES_NO),
    ("head_dim", "kv_bytes"): (_HEAD_DIM, _KV_BYTES),
    ("head_dim", "keys"): (_HEAD_DIM, _KEYS),
}

_ROWS = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0)
_EXPERTS = (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
_EXPERT_WIDTH = (4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0)
_SKEW = (0.0, 1.01, 1.2)
EXPERT_TERMS: Knots = {
    ("rows_an_expert", "experts"): (_ROWS, _EXPERTS),
    ("rows_an_expert", "width"): (_ROWS, _EXPERT_WIDTH),
    ("experts", "width"): (_EXPERTS, _EXPERT_WIDTH),
    ("hidden",): ((10.0, 11.0, 11.5, 12.0, 12.5, 13.0),),
    ("rows_a_token",): ((-6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 3.5, 4.5),),
    ("skew", "rows_an_expert"): (_SKEW, _ROWS),
    ("skew", "experts"): (_SKEW, _EXPERTS),
}

PRODUCT_PRIORS = {
    "compute_efficiency_fraction": Prior(0.65, 0.3, most=1.0),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(4 * MICRO, 1.0),
    "inner_seconds": Prior(0.6 * MICRO, 1.0),
    "exponent": Prior(2.5, 0.4, most=20.0),
    "quantisation_efficiency_fraction": Prior(0.4, 1.0, most=2.0),
    "cache_gain": Prior(3.0, 0.5, most=20.0),
}
PREFILL_PRIORS = {
    "compute_efficiency_fraction": Prior(0.7, 0.4),
    "memory_efficiency_fraction": Prior(0.7, 0.4),
    "launch_seconds": Prior(12 * MICRO, 1.0),
    "half_length": Prior(150.0, 1.0),
    "half_dim": Prior(40.0, 0.5),
}
DECODE_PRIORS = {
    "memory_efficiency_fraction": Prior(0.85, 0.3, most=1.0),
    "launch_seconds": Prior(10 * MICRO, 1.0),
    "exponent": Prior(1.2, 0.4, most=5.0),
    "cache_gain": Prior(2.0, 0.5, most=20.0),
    "head_seconds": Prior(3 * NANO, 1.0),
    "kv_head_seconds": Prior(3 * NANO, 1.0),
    "num_extra_tokens": Prior(8.0, 1.0, most=1000.0),
}
EXPERT_PRIORS = {
    "compute_efficiency_fraction": Prior(0.5, 0.5, most=1.0),
    "memory_efficiency_fraction": Prior(0.8, 0.3, most=1.0),
    "launch_seconds": Prior(25 * MICRO, 1.0),
    "num_tile_rows": Prior(32.0, 0.7, most=256.0),
    "exponent": Prior(2.5, 0.4, most=20.0),
    "traffic_efficiency_fraction": Prior(0.5, 0.7, most=2.0),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of kernel: its table, its curve, and how both are priced."""

    table: str
    curve: type[Record]
    priors: Mapping[str, Prior]
    design: Design
    price: Callable[[Any, Any, Batch], Floats]
    """(operation, curve, batch) -> seconds without the surface."""
    features: Callable[[Batch], Features]
    shape: tuple[str, ...]
    """Fields of the operation that make a shape."""


def _price_gemm(op: Gemm, curve: ProductCurve, batch: Batch) -> Floats:
    form, accelerator = form_of(batch.form), batch.accelerator
    rates = Rates(product_peak(accelerator, form), accelerator.memory_bytes_per_second)
    return np.asarray(product_seconds(op, form, curve, rates))


def _price_prefill(op: Attention, curve: PrefillCurve, batch: Batch) -> Floats:
    accelerator = batch.accelerator
    rates = Rates(accelerator.flops_per_second("bf16"), accelerator.memory_bytes_per_second)
    return np.asarray(prefill_seconds(op, curve, rates))


def _price_decode(op: DecodeAttention, curve: DecodeCurve, batch: Batch) -> Floats:
    return np.asarray(decode_seconds(op, curve, batch.accelerator))


def _price_experts(op: ExpertLayer, curve: ExpertCurve, batch: Batch) -> Floats:
    accelerator = batch.accelerator
    rates = Rates(product_peak(accelerator, form_of(batch.form)), accelerator.memory_bytes_per_second)
    return np.asarray(expert_seconds(op, curve, rates))


_HEADS_SHAPE = ("batch", "heads", "kv_heads", "head_dim", "window_length")
KINDS: Mapping[str, Kind] = {
    "gemm": Kind(
        "gemm.csv.gz", ProductCurve, PRODUCT_PRIORS, Design.of(GEMM_TERMS), _price_gemm,
        lambda batch: gemm_features(_as(Gemm, batch), float(batch.accelerator.num_cores or 1)), ("m", "n", "k"),
    ),
    "prefill": Kind(
        "attention_prefill.csv.gz", PrefillCurve, PREFILL_PRIORS, Design.of(PREFILL_TERMS), _price_prefill,
        lambda batch: prefill_features(_as(Attention, batch)), (*_HEADS_SHAPE, "query_length", "past_length"),
    ),
    "decode": Kind(
        "attention_decode.csv.gz", DecodeCurve, DECODE_PRIORS, Design.of(DECODE_TERMS), _price_decode,
        lambda batch: decode_features(_as(DecodeAttention, batch)), (*_HEADS_SHAPE, "context_length"),
    ),
    "experts": Kind(
        "moe.csv.gz", ExpertCurve, EXPERT_PRIORS, Design.of(EXPERT_TERMS), _price_experts,
        lambda batch: expert_features(_as(ExpertLayer, batch)),
        ("tokens", "rows", "hidden", "width", "experts"),
    ),
}  # fmt: skip


def _as(kind: type, batch: Batch) -> Any:
    assert isinstance(batch.op, kind)
    return batch.op


@dataclass(frozen=True, slots=True)
class Member:
    """The rows of one device, with what does not depend on a fit."""

    batch: Batch
    columns: Floats
    fold: NDArray[np.int64]

    @classmethod
    def of(cls, kind: Kind, batch: Batch) -> "Member":
        """Of one batch."""
        shapes = np.stack([np.nan_to_num(getattr(batch.op, name), posinf=0.0) for name in kind.shape], axis=1)
        return cls(batch, kind.design.columns(kind.features(batch)), folds(shapes, NUM_FOLDS))

    def part(self, chosen: NDArray[Any]) -> "Member":
        """Some of its rows."""
        op = self.batch.op
        fields = {
            name: getattr(op, name)[chosen]
            for name in type(op).__dataclass_fields__
            if isinstance(getattr(op, name), np.ndarray)
        }
        batch = replace(
            self.batch, op=replace(op, **fields), seconds=self.batch.seconds[chosen], index=self.batch.index[chosen],
            sources=self.batch.sources[chosen],
        )  # fmt: skip
        return Member(batch, self.columns[chosen], self.fold[chosen])


@dataclass(frozen=True, slots=True)
class Fitted:
    """Curves and heights fitted on some rows of a family."""

    kind: Kind
    curves: Mapping[str, Any]
    heights: Floats

    @classmethod
    def on(cls, kind: Kind, members: Sequence[Member]) -> "Fitted":
        """Physics of each member, then one surface for what they all leave."""
        curves = {member.batch.accelerator.name: _curve(kind, member.batch) for member in members}
        residuals = [
            np.log(member.batch.seconds / kind.price(member.batch.op, curve, member.batch))
            for member, curve in zip(members, curves.values(), strict=True)
        ]
        heights = kind.design.fit(np.vstack([member.columns for member in members]), np.concatenate(residuals))
        return cls(kind, curves, heights)

    def errors(self, member: Member, curve: Any | None = None) -> Floats:
        """|predicted / measured - 1| of the rows of `member`."""
        curve = curve or self.curves[member.batch.accelerator.name]
        predicted = self.kind.price(member.batch.op, curve, member.batch) * np.exp(member.columns @ self.heights)
        return np.abs(predicted / member.batch.seconds - 1.0)


def _curve(kind: Kind, batch: Batch) -> Any:
    def predict(values: Mapping[str, float], chosen: NDArray[np.int64]) -> Floats:
        op = batch.op
        fields = {
            name: getattr(op, name)[chosen]
            for name in type(op).__dataclass_fields__
            if isinstance(getattr(op, name), np.ndarray)
        }
        return kind.price(replace(op, **fields), kind.curve.model_construct(**values), batch)

    return kind.curve(**fit_physics(predict, batch.seconds, kind.priors))


def measured(kind: Kind, members: Sequence[Member], name: str) -> Measured[Any]:
    """The table of one kernel of a family, with its errors on shapes and on devices left out."""
    held_out = []
    for left_out in range(NUM_FOLDS):
        fitted = Fitted.on(kind, [member.part(member.fold != left_out) for member in members])
        held_out += [fitted.errors(member.part(member.fold == left_out)) for member in members]
    devices = [_left_out(kind, members, member) for member in members] if len(members) > 1 else []
    errors, everything = np.concatenate(held_out), Fitted.on(kind, members)
    fit = Fit(
        machine=" and ".join(everything.curves), date=DATE, num_points=len(errors),
        held_out_median_error_fraction=float(np.median(errors)),
        held_out_p90_error_fraction=float(np.quantile(errors, 0.9)),
        left_out_device_median_error_fraction=float(np.mean(devices)) if devices else None,
        source=VIDUR if name.startswith("torch ") else AIC,
    )  # fmt: skip
    print(f"{name:32s} {fit.num_points:6d} {np.median(errors):6.1%} {np.quantile(errors, 0.9):6.1%} "
          f"{np.mean(devices) if devices else np.nan:6.1%}  {fit.machine}", flush=True)  # fmt: skip
    curves = everything.curves
    return Measured[kind.curve](curves=curves, surface=kind.design.surface(everything.heights), fit=fit)  # type: ignore[name-defined]


def _left_out(kind: Kind, members: Sequence[Member], member: Member) -> float:
    """Median error on `member` of its relatives' mean curve and surface."""
    others = Fitted.on(kind, [other for other in members if other is not member])
    table: Measured[Any] = Measured[kind.curve].model_construct(curves=dict(others.curves))  # type: ignore[name-defined]
    return float(np.median(others.errors(member, table.curve(""))))


def records(folder: Path) -> list[LibraryCurves]:
    """The record of every family."""
    tables: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: {name: {} for name in KINDS})
    for kind_name, kind in KINDS.items():
        skipped: Skipped = Counter()
        groups: defaultdict[tuple[str, str], list[Member]] = defaultdict(list)
        for batch in read_batches(read_table(folder / kind.table), skipped):
            if len(batch.seconds) >= LEAST_ROWS:
                groups[_family(batch.accelerator.name), f"{batch.library} {batch.form}"].append(Member.of(kind, batch))
        for (family, name), members in groups.items():
            tables[family][kind_name][name] = measured(kind, members, name)
    return [
        LibraryCurves(name=family, source=f"{AIC}; {VIDUR}", accelerators=dict(FAMILIES[family]), **tables[family])
        for family in FAMILIES
        if family in tables
    ]


def _family(accelerator: str) -> str:
    return next(family for family, members in FAMILIES.items() if accelerator in members)


def main() -> None:
    """Fit every record, write one TOML file each, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, metavar="TABLE_DIR")
    parser.add_argument("output", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for record in records(arguments.tables):
        (arguments.output / f"{record.name}.toml").write_text(to_toml(record), encoding="utf-8")


if __name__ == "__main__":
    main()
