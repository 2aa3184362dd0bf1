"""`meshwise estimate`: what one split of a job costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, MoneyFlags, ReportFlags, SplitFlags, given, takes

if TYPE_CHECKING:
    from meshwise.asking import Asked, Explanation
    from meshwise.money.terms import Terms
    from planner.cost.estimate import Estimate
    from planner.cost.inventory import Item


@takes(JobFlags, SplitFlags, MoneyFlags, ReportFlags)
def estimate(
    job: JobFlags,
    split: SplitFlags,
    cost: MoneyFlags,
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
    from meshwise.money import document, terms
    from meshwise.serving import jobfile
    from profiles.files import PICTURES, check_writable

    reports.check(force)
    if file is not None and jobfile.is_serving(file):
        pictures = {"memory": memory, "explain": explain, "plot": plot}
        stated = given(job) | given(split) | given(cost)
        jobfile.refuse_options(stated | {name: value for name, value in pictures.items() if value})
        return _estimate_serving(file, reports, force=force, json=json)
    if plot:
        check_writable(plot, force, PICTURES)
    dollars = terms.read(file, given(cost))
    asked = asking.plan_question(file, terms.on_offer(dollars, given(job), file), given(split))
    price = terms.terms_of(dollars, asked.question)
    answer = asking.estimate(asked)
    tensors = asking.tensors(asked) if memory else None
    story = asking.explanation(asked, answer) if explain else None
    if plot:
        title = f"{asked.question.job.model.name} on {asked.question.cluster.num_devices:,} devices: {asked.plan}"
        waterfall.save_waterfall(asking.losses(asked, answer), plot, title)
    reports.write("estimate", force, asked, answer, story, tensors or (), file)
    if json:
        bills = document.money(asked.question, answer.breakdown, price)
        screen.print_json(jsonout.estimate(asked.question, answer, tensors, story, bills))
    else:
        _show(asked, answer, tensors or [], price, story)
        if plot:
            screen.console().print(f"wrote {plot}", markup=False)
    return 0


def _show(
    asked: "Asked", answer: "Estimate", tensors: "list[Item]", price: "Terms | None", story: "Explanation | None"
) -> None:
    from meshwise import screen
    from meshwise.tables import explain, memory, plans
    from meshwise.tables.money import show_money

    plans.show_estimate(screen.console(), asked.question, answer)
    memory.show_stages(screen.console(), asked.question, asked.plan)
    memory.show_tensors(screen.console(), tensors)
    show_money(screen.console(), asked.question, asked.plan, answer.breakdown, price)
    if story:
        explain.show_explanation(screen.console(), story)


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
