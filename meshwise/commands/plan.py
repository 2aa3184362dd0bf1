"""`meshwise plan`: the best splits of a job, ranked, and why the others lost."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, given, takes

NO_PLAN_FITS = 3


@takes(JobFlags)
def plan(
    job: JobFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(help="A job file; options win over it, and fields of its [split] are held.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Plans to show.")] = 10,
    fix: Annotated[
        list[str] | None, typer.Option("--fix", metavar="FIELD=VALUE", help="Hold a field of the plan, e.g. tp=8.")
    ] = None,
    max_micro_batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Largest microbatch to consider, in sequences.")
    ] = 16,
    no_simulate: Annotated[
        bool, typer.Option("--no-simulate", help="Rank by the estimate alone; by default the best are simulated.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the best plan to this .toml file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save replace a file.")] = False,
    json: JsonFlag = False,
) -> int:
    """Find the best split. Exits 3, with reasons, when no plan fits.

    Example: meshwise plan --model llama3-70b --cluster dgx-h100 --devices 64
    """
    from meshwise import asking, jobfile, jsonout, screen
    from meshwise.tables import plans
    from planner.choose.search import search
    from profiles.files import check_writable, write_whole

    asked = jobfile.read(file, given(job), {})
    question = jobfile.question(asked.job)
    fixed = asking.fixed_fields(fix or [], asked.split)
    if save:
        check_writable(save, force, (".toml",))
    with screen.progress() as on_progress:
        answer = search(
            question.job,
            question.cluster,
            question.stack,
            fixed=fixed,
            top=top,
            max_micro_batch=max_micro_batch,
            simulate=None if no_simulate else lambda one: asking.played_breakdown(question, one),
            on_progress=on_progress,
        )
    if save and answer.candidates:
        best = answer.candidates[0].plan
        write_whole(save, jobfile.render(question.table, best, save.parent), force)
    if json:
        screen.print_json(jsonout.search(question, answer))
    elif answer.candidates:
        plans.show_answer(screen.console(), question, answer, save)
    else:
        plans.show_refusal(screen.console(), question, answer, fixed)
    return 0 if answer.candidates else NO_PLAN_FITS
