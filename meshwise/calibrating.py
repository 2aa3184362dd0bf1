"""The ways to a cluster file: measure this machine, or read logs or runs; each prints what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwise import screen
from profiles.cluster import ClusterSpec

if TYPE_CHECKING:
    from validate.logs.links import FittedGroup


@dataclass(frozen=True, slots=True)
class Target:
    """Where the answer goes."""

    output: Path
    cluster: str | None
    """What was measured, where the user says so."""
    overwrite: bool
    as_json: bool

    def answer(self, spec: ClusterSpec, more: Mapping[str, Any]) -> None:
        """Print the document of --json."""
        screen.print_json({"output": str(self.output), "cluster": spec.model_dump(mode="json"), **more})


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one kind."""

    option: str
    files: list[Path]


def one_source(options: Mapping[str, Path | None], files: Sequence[Path] | None) -> Source | None:
    """The one option that names a file, with the further `files`; None when none does.

    Raises ValueError when two do, or when files have no kind.
    """
    given = [(option, file) for option, file in options.items() if file is not None]
    if len(given) > 1:
        raise ValueError(f"{given[1][0]}: {given[0][0]} reads something else; calibrate from one kind at a time")
    if given:
        option, first = given[0]
        return Source(option, [first, *(files or [])])
    if files:
        raise ValueError(f"{files[0]}: say what kind of file it is: {', '.join(options)}")
    return None


def refuse_pointless(
    source: Source | None, nproc: int | None, quick: bool, step_seconds: float | None, cluster: str | None
) -> None:
    """Raise ValueError for an option that would change nothing of what is read from `source`, or measured here."""
    option = source.option if source else "a measurement of this machine"
    if source and (nproc is not None or quick):
        given = "--nproc" if nproc is not None else "--quick"
        raise ValueError(f"{given}: says how to measure this machine, but {option} reads files; leave one out")
    if step_seconds is not None and option != "--from-run":
        raise ValueError(f"--step-seconds: belongs to a plan file of --from-run, not to {option}")
    if cluster is not None and not source:
        raise ValueError(f"--cluster: {cluster} says whose logs are read; give some, e.g. --from-nccl-tests FILE")


def measure_here(target: Target, nproc: int | None, quick: bool) -> int:
    """Measure this machine."""
    from meshwise.tables.calibration import show_calibration
    from validate.calibration.calibrate import calibrate
    from validate.calibration.effort import QUICK

    with screen.progress() as on_progress:
        spec = calibrate(
            target.output,
            num_ranks=nproc,
            effort=QUICK if quick else None,
            overwrite=target.overwrite,
            on_progress=lambda what, fraction: on_progress("calibrate", round(1000 * fraction), 1000),
        )
    if target.as_json:
        target.answer(spec, {})
    else:
        show_calibration(screen.console(), spec, target.output)
    return 0


def read_nccl_tests(files: Sequence[Path], target: Target) -> int:
    """Read tables of nccl-tests."""
    from meshwise.tables.calibration import show_links
    from validate.logs.profile import from_nccl_tests

    found = from_nccl_tests(files, target.output, cluster=target.cluster, overwrite=target.overwrite)
    if not target.as_json:
        show_links(screen.console(), found, target.output)
        return 0
    target.answer(found.spec, {"groups": [_group(group) for group in found.groups], "skipped": found.skipped})
    return 0


def _group(group: "FittedGroup") -> dict[str, Any]:
    return {
        "link": group.link,
        "op": group.op,
        "num_ranks": group.num_ranks,
        "num_hosts": group.num_hosts,
        "num_points": group.curve.fit.num_points,
        "error_before_fraction": group.error_before_fraction,
        "held_out_median_error_fraction": group.curve.fit.held_out_median_error_fraction,
    }


def read_traces(files: Sequence[Path], target: Target) -> int:
    """Read traces of PyTorch's profiler."""
    from meshwise.tables.calibration import show_trace
    from validate.logs.profile import from_traces

    found = from_traces(files, target.output, cluster=target.cluster, overwrite=target.overwrite)
    if not target.as_json:
        show_trace(screen.console(), found, target.output)
        return 0
    kernels = [asdict(one) for one in found.kernels]
    groups = [_group(group) for group in found.groups]
    more = {"kernels": kernels, "groups": groups, "skipped": found.skipped, "read_fraction": found.read_fraction}
    target.answer(found.spec, more)
    return 0


def read_runs(files: Sequence[Path], target: Target, step_seconds: float | None) -> int:
    """Change a profile by measured runs."""
    from meshwise.runs import recalibrate_from
    from meshwise.tables.calibration import show_recalibration

    found = recalibrate_from(
        list(files), target.output, cluster=target.cluster, step_seconds=step_seconds, overwrite=target.overwrite
    )
    if not target.as_json:
        show_recalibration(screen.console(), found, target.output)
        return 0
    factors = [
        {
            "cause": factor.scale.name,
            "time_factor": factor.value,
            "log_spread_before": factor.scale.log_spread,
            "log_spread": factor.log_spread,
            "is_found": factor.is_found,
        }
        for factor in found.factors
    ]
    runs = [
        {
            "name": name,
            "error_before_fraction": error,
            "error_after_fraction": found.after[name],
            "held_out_error_fraction": found.held_out.get(name),
        }
        for name, error in found.before.items()
    ]
    target.answer(found.spec, {"factors": factors, "runs": runs})
    return 0
