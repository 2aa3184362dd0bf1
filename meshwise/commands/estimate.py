"""`meshwise estimate`: what one split of a job costs."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, ReportFlags, SplitFlags, given, takes


@takes(JobFlags, SplitFlags, ReportFlags)
def estimate(
    job: JobFlags,
    split: SplitFlags,
    reports: ReportFlags,
    *,
    file: Annotated[Path | None, typer.Argument(help="A job or plan file; options win over it.")] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="List every tensor of the fullest stage: bytes, count, kept by what.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say where the step goes from the ideal on, and what limits it.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw that waterfall as a picture (.png, .svg, .pdf).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --plot and --report replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Price one split (step time by part, memory by part and by pipeline stage), or a serving job in closed form.

    Example: meshwise estimate --model llama3-70b --cluster dgx-h100 --devices 64 --tp 8 --pp 4

    Example: meshwise estimate examples/llama3-8b-chat.toml
    """
    from meshwise import asking, jsonout, screen, waterfall
    from meshwise.serving import jobfile
    from meshwise.tables import explain as explain_tables
    from meshwise.tables import memory as memory_tables
    from meshwise.tables import plans
    from profiles.files import PICTURES, check_writable

    reports.check(force)
    if file is not None and jobfile.is_serving(file):
        pictures = {"memory": memory, "explain": explain, "plot": plot}
        jobfile.refuse_options(given(job) | given(split) | {name: value for name, value in pictures.items() if value})
        return _estimate_serving(file, reports, force=force, json=json)
    if plot:
        check_writable(plot, force, PICTURES)
    asked = asking.plan_question(file, given(job), given(split))
    answer = asking.estimate(asked)
    tensors = asking.tensors(asked) if memory else None
    story = asking.explanation(asked, answer) if explain else None
    if plot:
        title = f"{asked.question.job.model.name} on {asked.question.cluster.num_devices:,} devices: {asked.plan}"
        waterfall.save_waterfall(asking.losses(asked, answer), plot, title)
    reports.write("estimate", force, asked, answer, story, tensors or (), file)
    if json:
        screen.print_json(jsonout.estimate(asked.question, answer, tensors, story))
    else:
        plans.show_estimate(screen.console(), asked.question, answer)
        memory_tables.show_stages(screen.console(), asked.question, asked.plan)
        memory_tables.show_tensors(screen.console(), tensors or [])
        if story:
            explain_tables.show_explanation(screen.console(), story)
        if plot:
            screen.console().print(f"wrote {plot}", markup=False)
    return 0


def _estimate_serving(file: Path, reports: ReportFlags, *, force: bool, json: bool) -> int:
    """The same for a serving job: what its users see under its load."""
    from meshwise import screen
    from meshwise.serving import answers, estimating, jobfile
    from meshwise.tables.serving_plans import show_estimates

    job = jobfile.read(file)
    found = estimating.estimate(job)
    reports.write("serving-estimate", force, job, found, file)
    if json:
        screen.print_json(answers.estimate_document(job, found))
    else:
        show_estimates(screen.console(), job, found)
    return 0
