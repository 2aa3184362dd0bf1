"""`meshwise calibrate`: measure this machine, or read what was measured elsewhere, into a cluster file."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JsonFlag

_LOGS = "From logs you have"


def calibrate(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More logs of the kind given.", show_default=False)
    ] = None,
    *,
    output: Annotated[Path, typer.Option(help="The cluster file to write.")] = Path("machine.toml"),
    nproc: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Ranks to measure with (default: one a core, at most 4).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few shapes only: a check that it works, not a fit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    from_nccl_tests: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read what all_reduce_perf and its like printed.", rich_help_panel=_LOGS),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Change a profile by a measured run: validate --json, or a plan file.",
            rich_help_panel=_LOGS,
        ),
    ] = None,
    step_seconds: Annotated[
        float | None,
        typer.Option(help="Of --from-run with a plan file: how long its step took.", rich_help_panel=_LOGS, min=1e-6),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="What was measured, a name or .toml (default: what the logs or runs name).", rich_help_panel=_LOGS
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Measure this machine, or read logs or runs measured elsewhere, and write a cluster file.

    Example: meshwise calibrate --output machine.toml, then meshwise plan --model gpt2 --cluster machine.toml
    """
    from meshwise import calibrating

    source = calibrating.one_source({"--from-nccl-tests": from_nccl_tests, "--from-run": from_run}, files)
    target = calibrating.Target(output, cluster, force, json)
    if source is None:
        calibrating.refuse_logs(cluster, step_seconds)
        return calibrating.measure_here(target, nproc, quick)
    calibrating.refuse_measuring(source.option, nproc, quick)
    if source.option == "--from-run":
        return calibrating.read_runs(source.files, target, step_seconds)
    calibrating.refuse_step(source.option, step_seconds)
    return calibrating.read_nccl_tests(source.files, target)
