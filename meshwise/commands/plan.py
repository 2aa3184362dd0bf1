"""`meshwise plan`: the best splits of a job, ranked, and why the others lost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, MoneyFlags, ReportFlags, SearchFlags, changed, given, takes

if TYPE_CHECKING:
    from meshwise.jobfile import Question
    from meshwise.money.terms import Terms
    from meshwise.serving.jobfile import ServingFile
    from planner.choose.search import Answer
    from planner.cost.estimate import Estimate

NO_PLAN_FITS = 3


@takes(JobFlags, SearchFlags, MoneyFlags, ReportFlags)
def plan(
    job: JobFlags,
    look: SearchFlags,
    cost: MoneyFlags,
    reports: ReportFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(help="A job file; options win over it, and fields of its split are held.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the best plan to this .toml file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save and --report replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Find the best split, or the best deployment of a serving job. Exits 3, with reasons, when none fits.

    Example: meshwise plan --model llama3-70b --cluster dgx-h100 --devices 64

    Example: meshwise plan examples/llama3-8b-chat.toml --save deployment.toml
    """
    from meshwise import asking, jobfile, jsonout, scaling, screen
    from meshwise.money import document, terms
    from meshwise.serving import jobfile as serving_jobs
    from meshwise.tables import plans
    from meshwise.tables import scaling as scaling_tables
    from profiles.files import check_writable, write_whole

    reports.check(force)
    if file is not None and serving_jobs.is_serving(file):
        serving_jobs.refuse_options(given(job) | given(cost) | changed(look, "top", "no_simulate"))
        return _plan_serving(file, look, save, reports, force=force, json=json)
    dollars = terms.read(file, given(cost))
    asked = jobfile.read(file, terms.on_offer(dollars, given(job), file), {})
    question = jobfile.question(asked.job)
    price = terms.terms_of(dollars, question)
    fixed = asking.fixed_fields(look.fix or [], asked.split)
    if save:
        check_writable(save, force, (".toml",))
    counts = scaling.parse_counts(look.scale) if look.scale else []
    if counts:
        question.alike("--scale")
    with screen.progress() as on_progress:
        answer = asking.best_plans(question, fixed, look, on_progress, price)
    if save and answer.candidates:
        best = answer.candidates[0].plan
        write_whole(save, jobfile.render(question.table, best, save.parent), force)
    other = asking.another(look.explain, question, answer) if look.explain and answer.candidates else None
    scales = scaling.scaled(question, counts, fixed, dollars)
    reports.write("plan", force, question, answer, scales, file)
    if json:
        bills = document.money(question, answer.candidates[0].breakdown, price) if answer.candidates else None
        screen.print_json(jsonout.search(question, answer, other[1] if other else None, scales, bills))
    elif answer.candidates:
        _show(question, answer, save, price, other)
    else:
        plans.show_refusal(screen.console(), question, answer, fixed)
    if scales and not json:
        scaling_tables.show_scales(screen.console(), scales)
    return 0 if answer.candidates else NO_PLAN_FITS


def _show(
    question: "Question",
    answer: "Answer",
    save: Path | None,
    price: "Terms | None",
    other: "tuple[str, Estimate] | None",
) -> None:
    from meshwise import screen
    from meshwise.tables import explain, plans
    from meshwise.tables.money import show_money

    first = answer.candidates[0]
    plans.show_answer(screen.console(), question, answer, save)
    show_money(screen.console(), question, first.plan, first.breakdown, price)
    if other:
        explain.show_against_best(screen.console(), first.estimate, *other)


def _plan_serving(
    file: Path, look: SearchFlags, save: Path | None, reports: ReportFlags, *, force: bool, json: bool
) -> int:
    """The same for a serving job: deployments in closed form, the best of them played."""
    from meshwise import screen
    from meshwise.serving import answers, deployed, jobfile, planning
    from meshwise.tables.serving_plans import show_plans
    from profiles.files import check_writable, write_whole

    if save:
        check_writable(save, force, (".toml",))
    job = jobfile.read(file)
    if len(job.serving) > 1:
        return _place(job, look, save, force=force, json=json)
    with screen.progress() as on_progress:
        answer = planning.best_plans(job, top=look.top, simulates=not look.no_simulate, on_progress=on_progress)
    if save and answer.is_met:
        write_whole(save, deployed.render(answer.best_file), force)
    reports.write("serving-plan", force, answer, file)
    if json:
        screen.print_json(answers.plans_document(answer))
    else:
        show_plans(screen.console(), answer)
        if save and answer.is_met:
            screen.console().print(f"wrote {save}", markup=False)
    return 0 if answer.is_met else NO_PLAN_FITS


def _place(job: "ServingFile", look: SearchFlags, save: Path | None, *, force: bool, json: bool) -> int:
    """The same for several models: which devices each gets."""
    from meshwise import screen
    from meshwise.serving import answers, deployed, placing
    from meshwise.tables.placed_models import show_placements
    from profiles.files import write_whole

    with screen.progress() as on_progress:
        found = placing.best_placements(job, simulates=not look.no_simulate, on_progress=on_progress)
    if save and found.best is not None:
        chosen = placing.with_placement(found.file, found.ranked[found.best].choices)
        write_whole(save, deployed.render(chosen), force)
    if json:
        screen.print_json(answers.placements_document(found))
    else:
        show_placements(screen.console(), found)
    return 0 if found.best is not None else NO_PLAN_FITS
