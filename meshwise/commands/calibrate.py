"""`meshwise calibrate`: measure this machine into a cluster file."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JsonFlag


def calibrate(
    output: Annotated[Path, typer.Option(help="The cluster file to write.")] = Path("machine.toml"),
    nproc: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Ranks to measure with (default: one a core, at most 4).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few shapes only: a check that it works, not a fit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    *,
    json: JsonFlag = False,
) -> int:
    """Measure this machine's kernels and links, and write them as a cluster. Takes about two minutes.

    Example: meshwise calibrate --output machine.toml, then meshwise plan --model gpt2 --cluster machine.toml
    """
    from meshwise import screen
    from meshwise.tables.calibration import show_calibration
    from validate.calibrate import NORMAL, QUICK
    from validate.calibrate import calibrate as measure

    with screen.progress() as on_progress:
        spec = measure(
            output,
            num_ranks=nproc,
            effort=QUICK if quick else NORMAL,
            overwrite=force,
            on_progress=lambda what, fraction: on_progress("calibrate", round(1000 * fraction), 1000),
        )
    if json:
        screen.print_json({"output": str(output), "cluster": spec.model_dump(mode="json")})
    else:
        show_calibration(screen.console(), spec, output)
    return 0
