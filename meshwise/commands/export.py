"""`meshwise export`: a plan as the configuration that a training framework takes."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes


@takes(JobFlags, SplitFlags)
def export(
    job: JobFlags,
    split: SplitFlags,
    *,
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan file; options win over it.")] = None,
    to: Annotated[str, typer.Option(metavar="megatron|torchtitan|deepspeed", help="The framework.")],
    output: Annotated[Path | None, typer.Option(help="Write the configuration to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.")] = False,
    json: JsonFlag = False,
) -> int:
    """Write a plan as arguments or a file that Megatron-LM, torchtitan or DeepSpeed takes.

    Example: meshwise export plan.toml --to megatron --output args.sh
    """
    from meshwise import asking, jsonout, screen
    from meshwise.export import registry
    from profiles.files import check_writable, write_whole

    target = registry.find(to)
    if output:
        check_writable(output, force, (target.ending,))
    asked = asking.plan_question(file, given(job), given(split))
    exported = target.export(asked.plan, asked.question)
    if output:
        write_whole(output, exported.text, force)
    if json:
        screen.print_json(jsonout.export(asked.question, asked.plan, target, exported))
    else:
        screen.console().print(f"wrote {output}" if output else exported.text, markup=False, soft_wrap=True, end="")
        for note in exported.notes:
            screen.say(f"{target.name} {target.release}: {note}")
    return 0
