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
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; options win over it.")] = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw the step as a picture (.png, .svg, .pdf).")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --gantt and --trace replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Play one split action by action: breakdown beside the estimate, activations held, Gantt, trace.

    With --days, also weeks of it: interruptions, checkpoints, restarts, and the share of steps that count.

    Example: meshwise simulate plan.toml --gantt step.png
    """
    from meshwise import asking, jsonout, longrun, screen
    from meshwise.tables import plans
    from meshwise.tables.longrun import show_long_run
    from profiles.files import PICTURES, check_writable

    for path, endings in ((gantt, PICTURES), (trace, (".json",))):
        if path:
            check_writable(path, force, endings)
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
