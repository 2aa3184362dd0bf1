"""`meshwise capacity`: what to buy or rent."""

from pathlib import Path
from typing import Annotated, Any

import typer

from meshwise.capacity.options import CapacityFlags
from meshwise.options import JobFlags, JsonFlag, ReportFlags, given, takes

NOTHING_MEETS_IT = 3


@takes(JobFlags, CapacityFlags, ReportFlags)
def capacity(
    job: JobFlags,
    asked: CapacityFlags,
    reports: ReportFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(help="A job file, perhaps with tables capacity and offers; options win.")
    ] = None,
    top: Annotated[int, typer.Option(help="Options to show.", min=1, max=10_000)] = 15,
    cache: Annotated[bool, typer.Option(help="Remember searches, and take up what is remembered.")] = True,
    workers: Annotated[int | None, typer.Option(help="Processes that search (default: one a core).", min=1)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Search on a Dask cluster, by the address of its scheduler.", metavar="ADDRESS")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --report replace files.")] = False,
    json: JsonFlag = False,
) -> int:
    """Find what to buy or rent for a training run or a serving job: cost and risk of every offer. Exits 3 when nothing
    will do.

    Example: meshwise capacity examples/buy-70b.toml

    Example: meshwise capacity examples/serve-chat-for-a-day.toml --providers AWS,Lambda

    Example: meshwise capacity --model llama3-8b --tokens 1T --deadline 30d --accelerators h100-sxm,b200-sxm
    """
    from meshwise import screen
    from meshwise.capacity.answering import answer, searchers
    from meshwise.capacity.cache import usual_cache
    from meshwise.capacity.document import document
    from meshwise.capacity.question import read
    from meshwise.serving import jobfile as serving_jobs
    from meshwise.tables.capacity import show_answer

    reports.check(force)
    if file is not None and serving_jobs.is_serving(file):
        usual = {"cache": cache, "workers": workers is None, "scheduler": scheduler is None}
        turned = given(asked) | {name: name for name, is_usual in usual.items() if not is_usual}
        return _capacity_of_serving(file, given(job), turned, top, reports, force=force, json=json)
    question = read(file, given(job), given(asked))
    with screen.progress() as on_progress, searchers(question, workers, scheduler) as executor:
        found = answer(question, usual_cache() if cache else None, executor, on_progress)
    reports.write("capacity", force, found, file)
    if json:
        screen.print_json(document(found))
    else:
        show_answer(screen.console(), found, top)
    return 0 if found.ranking.best else NOTHING_MEETS_IT


def _capacity_of_serving(
    file: Path, job_flags: dict[str, Any], flags: dict[str, Any], top: int, reports: ReportFlags, *,
    force: bool, json: bool,
) -> int:  # fmt: skip
    """The same for a serving job: replicas by the hour on every offer."""
    from meshwise import screen
    from meshwise.serving.capacity.answering import answer
    from meshwise.serving.capacity.document import document
    from meshwise.serving.capacity.question import read
    from meshwise.tables.serving_capacity import show_answer

    question = read(file, job_flags, flags)
    with screen.progress() as on_progress:
        found = answer(question.file, question.asked, question.offers, question.folder, on_progress)
    reports.write("serving-capacity", force, found, file)
    if json:
        screen.print_json(document(found))
    else:
        show_answer(screen.console(), found, top)
    return 0 if found.best else NOTHING_MEETS_IT
