"""`meshwise estimate`: what one split of a job costs."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes


@takes(JobFlags, SplitFlags)
def estimate(
    job: JobFlags,
    split: SplitFlags,
    *,
    file: Annotated[Path | None, typer.Argument(help="A job or plan file; options win over it.")] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="List every tensor of the fullest stage: bytes, count, kept by what.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Price one split: step time by part, memory by part and by pipeline stage.

    Example: meshwise estimate --model llama3-70b --cluster dgx-h100 --devices 64 --tp 8 --pp 4
    """
    from meshwise import asking, jsonout, screen
    from meshwise.tables import memory as memory_tables
    from meshwise.tables import plans

    asked = asking.plan_question(file, given(job), given(split))
    answer = asking.estimate(asked)
    tensors = asking.tensors(asked) if memory else None
    if json:
        screen.print_json(jsonout.estimate(asked.question, answer, tensors))
    else:
        plans.show_estimate(screen.console(), asked.question, answer)
        memory_tables.show_stages(screen.console(), asked.question, asked.plan)
        memory_tables.show_tensors(screen.console(), tensors or [])
    return 0
