"""`meshwise export`: a plan as the configuration that a framework takes, or a serving job as commands."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JobFlags, JsonFlag, SplitFlags, given, takes


@takes(JobFlags, SplitFlags)
def export(
    job: JobFlags,
    split: SplitFlags,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan file (options win over it), or serving job.")
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="megatron|torchtitan|deepspeed|vllm|sglang|trtllm", help="The framework or engine.")
    ],
    output: Annotated[Path | None, typer.Option(help="Write the configuration to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.")] = False,
    json: JsonFlag = False,
) -> int:
    """Write a plan as arguments or a file that Megatron-LM, torchtitan or DeepSpeed takes, or a serving job as the
    commands of vLLM, SGLang or TensorRT-LLM that serve it.

    Example: meshwise export plan.toml --to megatron --output args.sh

    Example: meshwise export examples/llama3-8b-chat.toml --to vllm
    """
    from meshwise import asking, jsonout, screen
    from meshwise.export import registry
    from meshwise.serving import jobfile
    from profiles.files import check_writable, write_whole

    if file is not None and jobfile.is_serving(file):
        jobfile.refuse_options(given(job) | given(split))
        return _export_serving(file, to, output, force=force, json=json)
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


def _export_serving(file: Path, to: str, output: Path | None, *, force: bool, json: bool) -> int:
    """The same for a serving job: one command a pool of its one model."""
    from meshwise import screen
    from meshwise.serving import exporting, jobfile
    from profiles.files import check_writable, write_whole

    if output:
        check_writable(output, force, (".sh",))
    deployed = exporting.deployed(jobfile.read(file))
    exported = exporting.export_serving(deployed, to)
    if output:
        write_whole(output, exported.text, force)
    if json:
        screen.print_json({"to": to, "release": exporting.SERVING_TARGETS[to].release, "text": exported.text,
                           "notes": list(exported.notes)})  # fmt: skip
    else:
        screen.console().print(f"wrote {output}" if output else exported.text, markup=False, soft_wrap=True, end="")
        for note in exported.notes:
            screen.say(f"{to} {exporting.SERVING_TARGETS[to].release}: {note}")
    return 0
