"""`meshwise simulate`: play a plan on a clock."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, LongRunFlags, SplitFlags, given, takes


@takes(JobFlags, SplitFlags, LongRunFlags)
def simulate(
    job: JobFlags,
    split: SplitFlags,
    long_run: LongRunFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan (options win over it) or serving job.")
    ] = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw the step, or queues over time (.png, .svg, .pdf).")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --gantt and --trace replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Play one split action by action (breakdown beside the estimate, activations held), or a serving job's requests.

    With --days, also weeks of it: interruptions, checkpoints, restarts, and the share of steps that count.

    Example: meshwise simulate plan.toml --gantt step.png

    Example: meshwise simulate examples/llama3-8b-chat.toml --trace requests.json
    """
    from meshwise import asking, jsonout, longrun, screen
    from meshwise.serving import jobfile
    from meshwise.tables import plans
    from meshwise.tables.longrun import show_long_run
    from profiles.files import PICTURES, check_writable

    for path, endings in ((gantt, PICTURES), (trace, (".json",))):
        if path:
            check_writable(path, force, endings)
    if file is not None and jobfile.is_serving(file):
        jobfile.refuse_options(given(job) | given(split) | given(long_run))
        return _simulate_serving(file, gantt, trace, json=json)
    weeks = given(long_run)
    if weeks and "days" not in weeks:
        raise ValueError(f"{next(iter(weeks))}: needs --days, the length of the run")
    asked = asking.plan_question(file, given(job), given(split))
    answer = asking.estimate(asked)
    played = asking.play(asked.question, asked.plan)
    if gantt:
        from simulator.gantt import save_gantt

        save_gantt(played, gantt, title=f"{asked.question.job.model.name}: {asked.plan}")
    if trace:
        from simulator.trace import write_trace

        write_trace(trace, played.tracks, played.prices)
    over_weeks = longrun.answer(asked, weeks) if weeks else None
    if json:
        screen.print_json(jsonout.simulation(asked.question, answer, played, over_weeks))
    else:
        plans.show_simulation(screen.console(), asked.question, answer, played)
        if over_weeks:
            screen.console().print()
            tokens = asked.question.job.tokens_per_step
            show_long_run(screen.console(), over_weeks, played.breakdown.step_seconds, tokens)
        for path in (gantt, trace):
            if path:
                screen.console().print(f"wrote {path}", markup=False)
    return 0


def _simulate_serving(file: Path, gantt: Path | None, trace: Path | None, *, json: bool) -> int:
    """The same for a serving job: requests on a clock."""
    from meshwise import screen
    from meshwise.serving import jobfile, playing
    from meshwise.serving.document import document
    from meshwise.tables.serving import show_serving

    answer = playing.simulate(jobfile.read(file), keeps_batches=trace is not None)
    run = answer.runs[0]
    if gantt:
        from simulator.serving.picture import save_serving

        save_serving(run.played, run.timeline, gantt, title=answer.title, limit_seconds=answer.targets.ttft_seconds)
    if trace:
        from simulator.serving.perfetto import serving_events
        from simulator.trace import write_events

        write_events(trace, serving_events(run.played, run.timeline))
    if json:
        screen.print_json(document(answer))
    else:
        show_serving(screen.console(), answer)
        for path in (gantt, trace):
            if path:
                screen.console().print(f"wrote {path}", markup=False)
    return 0
