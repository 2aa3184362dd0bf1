"""A sweep from the command line: which plans, where its partial results are kept, and what is printed of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwise import asking, jobfile, screen, sweepout
from meshwise.jobfile import Question
from meshwise.tables.sweeping import show_sweep
from planner.choose.legality import check_plan
from planner.plan import Plan
from profiles.files import check_writable, validated, write_whole
from validate.compare import Runner
from validate.journal import Journal
from validate.runnable import check_runnable
from validate.sweep.plans import runnable_plans
from validate.sweep.run import Sweeper, setting

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class SweepAsked:
    """Where a sweep's answers go."""

    output: Path | None
    plot: Path | None
    force: bool
    as_json: bool


def sweep(
    file: Path | None,
    job_flags: Mapping[str, Any],
    split_flags: Mapping[str, Any],
    only: Sequence[str],
    runner_options: Mapping[str, Any],
    asked: SweepAsked,
) -> int:
    """Measure every runnable plan of a job, or those of `only`; 130 when it was interrupted, with what there is.

    With an output file every launch is kept in a journal beside it, from which the same command goes on.
    """
    for path, endings in ((asked.output, (".json",)), (asked.plot, _PICTURES)):
        if path:
            check_writable(path, asked.force, endings)
    read = jobfile.read(file, job_flags, split_flags)
    question = jobfile.question(read.job)
    plans = _listed(only, question) if only else _every(read, question)
    runner = Runner(job=question.job, device="auto", on_progress=None, **runner_options)
    journal = Journal.beside(asked.output, setting(question.job, runner)) if asked.output else None
    with screen.progress() as on_progress:
        sweeper = Sweeper(question.job, question.cluster, question.stack, plans, runner, journal, on_progress)
        is_interrupted = _run(sweeper)
    found = sweeper.result()
    document = sweepout.document(question, found)
    if asked.output and not is_interrupted:
        write_whole(asked.output, screen.json_text(document), asked.force)
        assert journal is not None
        journal.forget()
    if asked.plot and found.outcomes:
        _draw(found, asked)
    if asked.as_json:
        screen.print_json(document)
    else:
        show_sweep(screen.console(), question, found)
    return INTERRUPTED if is_interrupted else 0


_PICTURES = (".png", ".svg", ".pdf")


def _run(sweeper: Sweeper) -> bool:
    """Whether the user stopped it."""
    try:
        sweeper.run()
    except KeyboardInterrupt:
        where = "the same command goes on from here" if sweeper.journal else "give --output to keep what was measured"
        screen.say(f"sweep interrupted; {where}")
        return True
    return False


def _every(read: jobfile.JobFile, question: Question) -> tuple[Plan, ...]:
    fixed = asking.fixed_fields([], read.split)
    return runnable_plans(question.job, question.cluster, question.stack, fixed)


def _listed(texts: Sequence[str], question: Question) -> tuple[Plan, ...]:
    """The plans that `FIELD=VALUE,...` texts name; raises ValueError for one that is illegal or cannot be run."""
    found = []
    for text in texts:
        fields = asking.fixed_fields(text.split(","), None, "--only")
        plan = jobfile.plan(validated(jobfile.SplitTable, fields, "--only"), question.cluster.num_devices)
        if faults := check_plan(plan, question.job, question.cluster):
            raise ValueError(f"--only {text}: {'; '.join(faults)}")
        check_runnable(question.job, plan)
        found.append(plan)
    return tuple(found)


def _draw(found: Any, asked: SweepAsked) -> None:
    from meshwise.sweepplot import draw_sweep

    assert asked.plot is not None
    figure = draw_sweep(found)
    figure.savefig(asked.plot, dpi=150)
