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
    cluster: Annotated[
        str | None,
        typer.Option(help="Whose links were measured: a name or .toml (default: by device).", rich_help_panel=_LOGS),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Measure this machine's kernels and links, or read logs, and write them as a cluster.

    Example: meshwise calibrate --output machine.toml, then meshwise plan --model gpt2 --cluster machine.toml
    """
    from meshwise import calibrating

    if from_nccl_tests is not None:
        calibrating.refuse_measuring("--from-nccl-tests", nproc, quick)
        return calibrating.read_nccl_tests([from_nccl_tests, *(files or [])], output, cluster, force, json)
    calibrating.refuse_logs(files, cluster)
    return calibrating.measure_here(output, nproc, quick, force, json)
