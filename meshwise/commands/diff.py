"""`meshwise diff`: two plans part by part, or two clusters figure by figure."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes


@takes(JobFlags, SplitFlags)
def diff(
    job: JobFlags,
    split: SplitFlags,
    *,
    first: Annotated[str, typer.Argument(help="A job or plan file, or the name of a cluster, node or accelerator.")],
    second: Annotated[
        str | None, typer.Argument(help="Another; left out, the first file again, with the options given.")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Compare two plans part by part (options apply to the second), or the figures of two clusters.

    A file without a [split] stands for the best plan of its job.
    Example: meshwise diff plan.toml --tp 4 --pp 8
    """
    from meshwise import comparing, jsonout, screen
    from meshwise.tables import diff as diff_tables

    if not comparing.is_job(first):
        if second is None or comparing.is_job(second):
            raise ValueError(f"{first}: is no job or plan file; give two plan files, or two clusters by name")
        found = comparing.clusters((first, second), job.devices)
        figures = comparing.cluster_figures(*found)
        if json:
            screen.print_json(jsonout.cluster_diff(found[0], found[1], figures))
        else:
            diff_tables.show_clusters(screen.console(), found[0], found[1], figures)
        return 0
    other = Path(second or first)
    names = (Path(first).stem, other.stem) if second and Path(first).stem != other.stem else ("first", "second")
    here = comparing.side(names[0], Path(first), {}, {})
    there = comparing.side(names[1], other, given(job), given(split))
    if json:
        screen.print_json(jsonout.plan_diff(here, there))
    else:
        diff_tables.show_sides(screen.console(), here, there)
    return 0
