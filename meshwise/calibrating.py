"""The ways to a cluster file: measure this machine, or read logs; each prints what it found."""

from collections.abc import Sequence
from pathlib import Path

from meshwise import screen


def refuse_measuring(option: str, nproc: int | None, quick: bool) -> None:
    """Raise ValueError for options of a measurement beside one that reads logs."""
    if nproc is not None or quick:
        given = "--nproc" if nproc is not None else "--quick"
        raise ValueError(f"{given}: says how to measure this machine, but {option} reads logs; leave one out")


def refuse_logs(files: Sequence[Path] | None, cluster: str | None) -> None:
    """Raise ValueError for options of logs where none are read."""
    if files:
        raise ValueError(f"{files[0]}: say what kind of log it is, e.g. --from-nccl-tests {files[0]}")
    if cluster is not None:
        raise ValueError(f"--cluster: {cluster} says whose logs are read; give some, e.g. --from-nccl-tests FILE")


def measure_here(output: Path, nproc: int | None, quick: bool, force: bool, as_json: bool) -> int:
    """Measure this machine."""
    from meshwise.tables.calibration import show_calibration
    from validate.calibrate import calibrate
    from validate.effort import QUICK

    with screen.progress() as on_progress:
        spec = calibrate(
            output,
            num_ranks=nproc,
            effort=QUICK if quick else None,
            overwrite=force,
            on_progress=lambda what, fraction: on_progress("calibrate", round(1000 * fraction), 1000),
        )
    if as_json:
        screen.print_json({"output": str(output), "cluster": spec.model_dump(mode="json")})
    else:
        show_calibration(screen.console(), spec, output)
    return 0


def read_nccl_tests(files: Sequence[Path], output: Path, cluster: str | None, force: bool, as_json: bool) -> int:
    """Read tables of nccl-tests."""
    from meshwise.tables.calibration import show_links
    from validate.logs.profile import from_nccl_tests

    found = from_nccl_tests(files, output, cluster=cluster, overwrite=force)
    if as_json:
        groups = [
            {
                "link": group.link,
                "op": group.op,
                "num_ranks": group.num_ranks,
                "num_hosts": group.num_hosts,
                "num_points": group.curve.fit.num_points,
                "error_before_fraction": group.error_before_fraction,
                "held_out_median_error_fraction": group.curve.fit.held_out_median_error_fraction,
            }
            for group in found.groups
        ]
        spec = found.spec.model_dump(mode="json")
        screen.print_json({"output": str(output), "cluster": spec, "groups": groups, "skipped": found.skipped})
    else:
        show_links(screen.console(), found, output)
    return 0
