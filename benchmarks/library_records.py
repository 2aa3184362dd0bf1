"""Library calibration records, one for each family of chips: `python -m benchmarks.library_records TABLE_DIR DIR`.

TABLE_DIR holds gemm, attention_prefill, attention_decode, moe and mem_bound (.csv.gz; see docs/calibration.md). Prints
of every table the median error of shapes left out, and of devices left out.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernel_records import AIC, DATE, VIDUR
from benchmarks.layer_profiles import SOURCE as PROFILES
from benchmarks.library_kinds import KINDS, Kind
from benchmarks.surface_fit import Floats, fit_physics, folds
from profiles.calibration import Fit
from profiles.files import read_table
from profiles.libraries import LibraryCurves, Measured
from profiles.writer import to_toml
from validate.score import columns
from validate.score.kernel_tables import Batch, Skipped, read_batches

FAMILIES: Mapping[str, Mapping[str, str]] = {
    "ampere": {
        **dict.fromkeys(
            ("a100-sxm-80gb", "a100-sxm-40gb", "a100-pcie-80gb", "a100-pcie-40gb", "a800-sxm-80gb"), "a100-sxm-80gb"
        ),
        "a30": "a100-sxm-80gb",
    },
    "ampere-gddr": {"a40": "a40", "a10": "a40", "a10g": "a40", "rtx-3090": "a40"},
    "ada": {"l40s": "l40s", "l4": "l40s", "rtx-4090": "rtx-4090"},
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
LEAST_ROWS = 90
NUM_FOLDS = 3


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
        source=VIDUR if name.startswith("torch ") else _source(members),
    )  # fmt: skip
    print(f"{name:32s} {fit.num_points:6d} {np.median(errors):6.1%} {np.quantile(errors, 0.9):6.1%} "
          f"{np.mean(devices) if devices else np.nan:6.1%}  {fit.machine}", flush=True)  # fmt: skip
    curves = everything.curves
    return Measured[kind.curve](curves=curves, surface=kind.design.surface(everything.heights), fit=fit)  # type: ignore[name-defined]


def _source(members: Sequence[Member]) -> str:
    profiled = [str(member.batch.sources[0]) == PROFILES for member in members]
    return "; ".join([AIC] * (not all(profiled)) + [PROFILES] * any(profiled))


def _left_out(kind: Kind, members: Sequence[Member], member: Member) -> float:
    """Median error on `member` of its relatives' mean curve and surface."""
    others = Fitted.on(kind, [other for other in members if other is not member])
    table: Measured[Any] = Measured[kind.curve].model_construct(curves=dict(others.curves))  # type: ignore[name-defined]
    return float(np.median(others.errors(member, table.curve(""))))


def records(
    folders: Sequence[Path], kinds: Collection[str] = tuple(KINDS), only: Collection[str] = ()
) -> list[LibraryCurves]:
    """The record of every family, or of `only` some, with its kernels of `kinds`; no device is in two of `folders`."""
    tables: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: {name: {} for name in KINDS})
    for kind_name in kinds:
        kind = KINDS[kind_name]
        skipped: Skipped = Counter()
        groups: defaultdict[tuple[str, str], list[Member]] = defaultdict(list)
        paths = [folder / kind.table for folder in folders if (folder / kind.table).exists()]
        for batch in chain.from_iterable(read_batches(columns.read_table(path), skipped) for path in paths):
            family = _family(batch.accelerator.name)
            if len(batch.seconds) >= LEAST_ROWS and (not only or family in only):
                groups[family, f"{batch.library} {batch.form}"].append(Member.of(kind, batch))
        for (family, name), members in groups.items():
            tables[family][kind_name][name] = measured(kind, members, name)
    return [
        LibraryCurves(
            name=family, source=f"{AIC}; {VIDUR}; {PROFILES}", accelerators=dict(FAMILIES[family]), **tables[family]
        )
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
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KERNEL",
                        help="fit these, and keep the others that DIR holds")  # fmt: skip
    parser.add_argument("--also", nargs="+", type=Path, default=[], metavar="TABLE_DIR",
                        help="tables of other devices (benchmarks.layer_profiles)")  # fmt: skip
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=[], help="fit these families alone")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for record in records([arguments.tables, *arguments.also], arguments.only, arguments.family):
        path = arguments.output / f"{record.name}.toml"
        if path.exists():
            known = LibraryCurves(**read_table(path))
            kept = {kind: getattr(known, kind) for kind in KINDS if kind not in arguments.only}
            record = record.model_copy(update={**kept, "mixed_attention": known.mixed_attention})
        path.write_text(to_toml(record), encoding="utf-8")


if __name__ == "__main__":
    main()
