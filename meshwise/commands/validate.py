"""`meshwise validate`: run a plan on this machine and compare."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes

NUM_WARMUP = 3
"""Steps of a launch that do not count."""


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
    trace: Annotated[
        bool, typer.Option("--trace", help="Run nothing: count what torch would do on ranks that are only pretended.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Of --trace: every layer and microbatch, not a few of each.")
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run every plan of the job that can run here; split options hold fields.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE,...", help="Of --sweep: this plan, not every one. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Of --sweep: a .json file for the answer; launches are kept beside it until it is there."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Of --sweep: draw all plans (.png, .svg, .pdf).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output and --plot replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Run one split for real and print estimated | simulated | measured. Joins the ranks of torchrun.

    Example: meshwise validate examples/gpt-20m-dp2.toml --cluster machine.toml
    """
    if whole and not trace:
        raise ValueError("--whole: it says how much --trace counts; give --trace too")
    if not sweep and (only or output or plot or force):
        raise ValueError("--only, --output, --plot, --force: they are of --sweep; give --sweep too")
    if trace:
        return _trace(file, given(job), given(split), whole, json)
    devices = {"devices": nproc} if nproc and job.devices is None else {}
    if nproc and job.devices not in (None, nproc):
        raise ValueError(f"--nproc: {nproc} ranks and --devices {job.devices} say two things; give one")
    if sweep:
        from meshwise import sweeping

        options = {
            "num_launches": launches,
            "num_steps": steps,
            "num_warmup": NUM_WARMUP,
            "timeout_seconds": timeout,
            "oversubscribe": oversubscribe,
        }
        asked_for = sweeping.SweepAsked(output, plot, force, json)
        return sweeping.sweep(file, given(job) | devices, given(split), only or [], options, asked_for)
    from meshwise import asking, jsonout, screen
    from meshwise.tables.comparison import show_comparison
    from validate.compare import validate_plan

    asked = asking.plan_question(file, given(job) | devices, given(split))
    question = asked.question
    with screen.progress() as on_progress:
        comparison = validate_plan(
            question.job,
            asked.plan,
            question.alike("validate"),
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


def _trace(file: Path | None, job: dict[str, Any], split: dict[str, Any], whole: bool, json: bool) -> int:
    """Trace a plan; 1 when torch would do something that neither the planner says nor a reason names."""
    from meshwise import asking, screen, tracing
    from meshwise.tables.tracing import show_trace
    from validate.trace.report import trace_plan

    asked = asking.plan_question(file, job, split)
    question = asked.question
    with screen.progress() as on_progress:
        report = trace_plan(question.job, asked.plan, question.stack, whole=whole, on_progress=on_progress)
    if json:
        screen.print_json(tracing.document(question, asked.plan, report))
    else:
        show_trace(screen.console(), question, asked.plan, report)
    return 1 if report.num_faults else 0
