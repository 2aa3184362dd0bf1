"""`meshwise calibrate`: measure this machine, or read what was measured elsewhere, into a cluster file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from meshwise.options import JsonFlag, takes


def _log(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="From logs and runs you have", show_default=False, **more)


@dataclass(frozen=True, slots=True)
class LogFlags:
    """What was measured elsewhere; all None where this machine is to be measured."""

    from_nccl_tests: Annotated[Path | None, _log("What all_reduce_perf and its like printed.", metavar="FILE")] = None
    from_trace: Annotated[
        Path | None, _log("A trace of PyTorch's profiler (.json, .json.gz), with shapes.", metavar="FILE")
    ] = None
    from_run: Annotated[
        Path | None,
        _log("A run to change a profile by: of validate --json, a plan; or of serving.", metavar="FILE"),
    ] = None
    step_seconds: Annotated[float | None, _log("Of --from-run with a plan: how long its step took.", min=1e-6)] = None
    cluster: Annotated[str | None, _log("What was measured: a name or .toml (default: what the files name).")] = None


@takes(LogFlags)
def calibrate(
    logs: LogFlags,
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files of the kind given.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="The cluster file to write.")] = Path("machine.toml"),
    nproc: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Ranks to measure with (default: one a GPU, or core to 4).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few shapes only: a check that it works, not a fit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    json: JsonFlag = False,
) -> int:
    """Measure this machine in some three minutes, or read logs or runs measured elsewhere, and write a cluster file.

    Example: meshwise calibrate --output machine.toml, then meshwise plan --model gpt2 --cluster machine.toml

    Example: meshwise calibrate --from-run served.csv --output my-engine.toml (a table of runs, or a log of requests)
    """
    from meshwise import calibrating
    from meshwise.serving import calibrating as engines

    options = {
        "--from-nccl-tests": logs.from_nccl_tests, "--from-trace": logs.from_trace, "--from-run": logs.from_run,
    }  # fmt: skip
    source = calibrating.one_source(options, files)
    target = calibrating.Target(output, logs.cluster, force, json)
    calibrating.refuse_pointless(source, nproc, quick, logs.step_seconds, logs.cluster)
    if source is None:
        return calibrating.measure_here(target, nproc, quick)
    if source.option == "--from-run" and engines.holds_requests(source.files[0]):
        return engines.read_logs(source.files, target, logs.step_seconds)
    if source.option == "--from-run" and engines.is_table(source.files[0]):
        return engines.read_serving_runs(source.files, target, logs.step_seconds)
    if source.option == "--from-run":
        return calibrating.read_runs(source.files, target, logs.step_seconds)
    read = calibrating.read_traces if source.option == "--from-trace" else calibrating.read_nccl_tests
    return read(source.files, target)
