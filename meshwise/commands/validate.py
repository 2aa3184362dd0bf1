"""`meshwise validate`: run a plan on this machine and compare."""

import os
from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, ReportFlags, SplitFlags, changed, given, takes
from meshwise.run_options import LaunchFlags, SweepFlags, TraceFlags


@takes(JobFlags, SplitFlags, LaunchFlags, SweepFlags, TraceFlags, ReportFlags)
def validate(
    job: JobFlags,
    split: SplitFlags,
    launch: LaunchFlags,
    sweep: SweepFlags,
    trace: TraceFlags,
    reports: ReportFlags,
    *,
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; options win over it.")] = None,
    json: JsonFlag = False,
) -> int:
    """Run one split for real and print estimated | simulated | measured. Joins the ranks of torchrun.

    Of a serving job: answer its requests by a small server on this machine, beside the simulator's prediction.

    Example: meshwise validate examples/gpt-20m-dp2.toml --cluster machine.toml
    """
    from meshwise.serving import jobfile

    reports.check(sweep.force)
    if file is not None and jobfile.is_serving(file):
        meant = changed(launch, "timeout", "oversubscribe") | changed(sweep, "force") | changed(trace)
        jobfile.refuse_options(given(job) | given(split) | meant)
        return _serve(file, launch, reports, force=sweep.force, as_json=json)
    launch.check(job.devices)
    sweep.check(reports=bool(reports.report))
    trace.check(sweep, launch.append, reports=bool(reports.report))
    job_given = launch.with_devices(given(job))
    if trace.trace:
        from meshwise import tracing

        return tracing.trace(file, job_given, given(split), whole=trace.whole, as_json=json)
    if sweep.sweep:
        from meshwise import sweeping

        return sweeping.sweep(file, job_given, given(split), launch, sweep, reports, as_json=json)
    return _compare(file, job_given, given(split), launch, sweep, reports, as_json=json)


def _serve(file: Path, launch: LaunchFlags, reports: ReportFlags, *, force: bool, as_json: bool) -> int:
    """Serve the requests of a serving job on this machine, and predict them."""
    from meshwise import screen
    from meshwise.serving import serving_here

    with screen.progress() as on_progress:
        found = serving_here.validate(
            file, launch.timeout, launch.oversubscribe, lambda phase: on_progress(phase, 0, 1)
        )
    reports.write("serving-validate", force, found, file)
    if as_json:
        screen.print_json(serving_here.document(found))
    else:
        serving_here.show(screen.console(), found)
    return 0


def _compare(
    file: Path | None, job: dict[str, object], split: dict[str, object], launch: LaunchFlags, answer: SweepFlags,
    reports: ReportFlags, *, as_json: bool,
) -> int:  # fmt: skip
    """Run one plan here, beside one rank; the answer goes to a file too if `answer` names one."""
    from meshwise import asking, jsonout, screen
    from meshwise.interruption import INTERRUPTED, where_kept
    from meshwise.tables.comparison import show_comparison
    from profiles.files import check_writable, write_whole
    from validate.compare import validate_plan

    if answer.output:
        check_writable(answer.output, answer.force, (".json",))
    asked = asking.plan_question(file, job, split, takes_turns=launch.oversubscribe)
    question = asked.question
    try:
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
                output=answer.output,
            )
    except KeyboardInterrupt:
        screen.say(f"validate interrupted; {where_kept(answer.output)}")
        return INTERRUPTED
    if os.environ.get("RANK", "0") != "0":
        return 0
    if launch.append:
        from meshwise import appending

        appending.append(launch.append, question, [comparison])
    if answer.output:
        write_whole(answer.output, screen.json_text(jsonout.comparison(question, comparison)), answer.force)
    reports.write("validate", answer.force, question, comparison, file)
    if as_json:
        screen.print_json(jsonout.comparison(question, comparison))
    else:
        show_comparison(screen.console(), question, comparison)
    return 0
