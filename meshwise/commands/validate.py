"""`meshwise validate`: run a plan on this machine and compare."""

import os
from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes
from meshwise.run_options import LaunchFlags, SweepFlags, TraceFlags


@takes(JobFlags, SplitFlags, LaunchFlags, SweepFlags, TraceFlags)
def validate(
    job: JobFlags,
    split: SplitFlags,
    launch: LaunchFlags,
    sweep: SweepFlags,
    trace: TraceFlags,
    *,
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; options win over it.")] = None,
    json: JsonFlag = False,
) -> int:
    """Run one split for real and print estimated | simulated | measured. Joins the ranks of torchrun.

    Example: meshwise validate examples/gpt-20m-dp2.toml --cluster machine.toml
    """
    launch.check(job.devices)
    sweep.check()
    trace.check(sweep, launch.append)
    job_given = launch.with_devices(given(job))
    if trace.trace:
        from meshwise import tracing

        return tracing.trace(file, job_given, given(split), whole=trace.whole, as_json=json)
    if sweep.sweep:
        from meshwise import sweeping

        return sweeping.sweep(file, job_given, given(split), launch, sweep, as_json=json)
    return _compare(file, job_given, given(split), launch, as_json=json)


def _compare(
    file: Path | None, job: dict[str, object], split: dict[str, object], launch: LaunchFlags, *, as_json: bool
) -> int:
    """Run one plan here, beside one rank."""
    from meshwise import asking, jsonout, screen
    from meshwise.tables.comparison import show_comparison
    from validate.compare import validate_plan

    asked = asking.plan_question(file, job, split)
    question = asked.question
    with screen.progress() as on_progress:
        comparison = validate_plan(
            question.job,
            asked.plan,
            question.alike("validate"),
            question.stack,
            num_launches=launch.launches,
            num_steps=launch.steps,
            timeout_seconds=launch.timeout,
            oversubscribe=launch.oversubscribe,
            on_progress=on_progress,
        )
    if os.environ.get("RANK", "0") != "0":
        return 0
    if launch.append:
        from meshwise import appending

        appending.append(launch.append, question, [comparison])
    if as_json:
        screen.print_json(jsonout.comparison(question, comparison))
    else:
        show_comparison(screen.console(), question, comparison)
    return 0
