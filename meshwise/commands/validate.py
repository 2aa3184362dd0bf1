"""`meshwise validate`: run a plan on this machine and compare."""

import os
from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes


@takes(JobFlags, SplitFlags)
def validate(
    job: JobFlags,
    split: SplitFlags,
    *,
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; options win over it.")] = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Ranks to start, in place of --devices.", show_default=False)
    ] = None,
    launches: Annotated[int, typer.Option(min=1, max=100, help="Fresh starts whose median counts.")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Timed steps of each start.")] = 10,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds one start may take.")] = 600.0,
    oversubscribe: Annotated[
        bool, typer.Option("--oversubscribe", help="Start more ranks than there are cores; timings then mean little.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Run one split for real and print estimated | simulated | measured. Joins the ranks of torchrun.

    Example: meshwise validate examples/gpt-20m-dp2.toml --cluster machine.toml
    """
    from meshwise import asking, jsonout, screen
    from meshwise.tables.comparison import show_comparison
    from validate.compare import validate_plan

    devices = {"devices": nproc} if nproc and job.devices is None else {}
    if nproc and job.devices not in (None, nproc):
        raise ValueError(f"--nproc: {nproc} ranks and --devices {job.devices} say two things; give one")
    asked = asking.plan_question(file, given(job) | devices, given(split))
    question = asked.question
    with screen.progress() as on_progress:
        comparison = validate_plan(
            question.job,
            asked.plan,
            question.cluster,
            question.stack,
            num_launches=launches,
            num_steps=steps,
            timeout_seconds=timeout,
            oversubscribe=oversubscribe,
            on_progress=on_progress,
        )
    if os.environ.get("RANK", "0") != "0":
        return 0
    if json:
        screen.print_json(jsonout.comparison(question, comparison))
    else:
        show_comparison(screen.console(), question, comparison)
    return 0
