"""Fit the shipped calibration records: `python -m benchmarks.fit_calibrations TABLE_DIR --output DIR`.

TABLE_DIR holds gemm, attention_prefill, moe, mem_bound and collectives (.csv.gz); docs/calibration.md says where they
come from and which of their rows count. Prints the error of every curve on shapes that its fit had not seen.
"""

import argparse
from pathlib import Path

from benchmarks.kernel_records import Kernels
from benchmarks.link_records import Links
from profiles.calibration import Fit
from profiles.writer import to_toml


def main() -> None:
    """Fit every record, write one TOML file each, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, metavar="TABLE_DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    print(f"{'curve':42s} {'points':>7s} {'median':>7s} {'p90':>7s}")
    for kind, records in (
        ("kernels", Kernels(arguments.tables).records()),
        ("links", Links(arguments.tables).records()),
    ):
        folder = arguments.output / kind
        folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            (folder / f"{record.name}.toml").write_text(to_toml(record), encoding="utf-8")
            for name, fit in record.fits().items():
                print(f"{record.name + ' ' + name:42s} {fit.num_points:7d} {_percent(fit)}")


def _percent(fit: Fit) -> str:
    errors = (fit.held_out_median_error_fraction, fit.held_out_p90_error_fraction)
    return " ".join("      -" if error is None else f"{error:7.1%}" for error in errors)


if __name__ == "__main__":
    main()
