"""A sweep from the command line: which plans, where its partial results are kept, and what is printed of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwise import asking, jobfile, screen, sweepout
from meshwise.appending import append
from meshwise.interruption import INTERRUPTED, where_kept
from meshwise.jobfile import Question
from meshwise.options import ReportFlags
from meshwise.run_options import LaunchFlags, SweepFlags
from meshwise.sweepplot import save_sweep
from meshwise.tables.sweeping import show_sweep
from planner.choose.legality import check_plan
from planner.plan import Plan
from profiles.files import PICTURES, check_writable, validated, write_whole
from validate.calibration.journal import Journal
from validate.runnable import check_runnable
from validate.runner import Runner, setting
from validate.sweep.plans import runnable_plans
from validate.sweep.run import Sweeper

NUM_WARMUP = 3
"""Steps of a launch that do not count."""


def sweep(
    file: Path | None,
    job_flags: Mapping[str, Any],
    split_flags: Mapping[str, Any],
    launch: LaunchFlags,
    flags: SweepFlags,
    reports: ReportFlags,
    *,
    as_json: bool,
) -> int:
    """Measure every runnable plan of a job, or those of `--only`; 130 when it was interrupted, with what there is.

    With an output file every launch is kept in a journal beside it, from which the same command goes on.
    """
    for path, endings in ((flags.output, (".json",)), (flags.plot, PICTURES)):
        if path:
            check_writable(path, flags.force, endings)
    read = jobfile.read(file, job_flags, split_flags)
    question, num_ranks = jobfile.emulated(read.job, allowed=launch.oversubscribe and bool(flags.only))
    plans = _listed(flags.only, question, num_ranks) if flags.only else _every(read, question)
    sweeper = _sweeper(question, plans, launch, flags.output)
    with screen.progress() as on_progress:
        sweeper.on_progress = on_progress
        is_interrupted = _run(sweeper, flags.output)
    found = sweeper.result()
    document = sweepout.document(question, found)
    if flags.output and sweeper.runner.journal and not is_interrupted:
        write_whole(flags.output, screen.json_text(document), flags.force)
        sweeper.runner.journal.forget()
    if launch.append:
        append(launch.append, question, found.outcomes)
    if flags.plot and found.outcomes:
        save_sweep(found, flags.plot)
    if found.outcomes:
        reports.write("validate-sweep", flags.force, question, found, file)
    if as_json:
        screen.print_json(document)
    else:
        show_sweep(screen.console(), question, found)
    return INTERRUPTED if is_interrupted else 0


def _sweeper(question: Question, plans: Sequence[Plan], launch: LaunchFlags, output: Path | None) -> Sweeper:
    runner = Runner(
        question.job,
        num_warmup=NUM_WARMUP,
        num_steps=launch.steps,
        device="auto",
        timeout_seconds=launch.timeout,
        oversubscribe=launch.oversubscribe,
        on_progress=None,
        num_launches=launch.launches,
    )
    runner.journal = Journal.beside(output, setting(question.job, runner)) if output else None
    return Sweeper(question.job, question.alike("validate"), question.stack, plans, runner)


def _run(sweeper: Sweeper, output: Path | None) -> bool:
    """Whether the user stopped it."""
    try:
        sweeper.run()
    except KeyboardInterrupt:
        screen.say(f"sweep interrupted; {where_kept(output)}")
        return True
    return False


def _every(read: jobfile.JobFile, question: Question) -> tuple[Plan, ...]:
    fixed = asking.fixed_fields([], read.split)
    return runnable_plans(question.job, question.alike("validate"), question.stack, fixed)


def _listed(texts: Sequence[str], question: Question, num_ranks: int | None) -> tuple[Plan, ...]:
    """The plans that `FIELD=VALUE,...` texts name; raises ValueError for one that is illegal or cannot be run."""
    found, cluster = [], question.alike("validate")
    if num_ranks:
        cluster = cluster.model_copy(update={"num_devices": num_ranks})
    for text in texts:
        fields = asking.fixed_fields(text.split(","), None, "--only")
        plan = jobfile.plan(validated(jobfile.SplitTable, fields, "--only"), cluster.num_devices)
        if faults := check_plan(plan, question.job, cluster):
            raise ValueError(f"--only {text}: {'; '.join(faults)}")
        check_runnable(question.job, plan)
        found.append(plan)
    return tuple(found)
