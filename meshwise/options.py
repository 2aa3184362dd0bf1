"""Command-line options that several commands share, each declared once, and the decorator that adds them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

JOB_PANEL = "The job"
SPLIT_PANEL = "The split"


class Precision(StrEnum):
    """Number formats a training job can ask for."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"


class Schedule(StrEnum):
    """Pipeline schedules."""

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"
    INTERLEAVED = "interleaved"


class RecomputePolicy(StrEnum):
    """What the backward pass computes again."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


def _option(*names: str, help: str, panel: str, **extra: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **extra)


@dataclass(frozen=True, slots=True)
class JobFlags:
    """What is trained, and on what; None where the job file or a default decides."""

    model: Annotated[
        str | None,
        _option("--model", panel=JOB_PANEL, help="A model's name, a Hugging Face config.json, or a model .toml."),
    ] = None
    cluster: Annotated[
        str | None,
        _option("--cluster", panel=JOB_PANEL, help="A cluster, node or accelerator by name, or a cluster .toml."),
    ] = None
    devices: Annotated[
        int | None, _option("--devices", panel=JOB_PANEL, help="Accelerators to use (default: one node).")
    ] = None
    global_batch: Annotated[
        int | None,
        _option("--global-batch", panel=JOB_PANEL, help="Sequences a step (default: about 4 Mi tokens)."),
    ] = None
    sequence_length: Annotated[
        int | None,
        _option("--sequence-length", panel=JOB_PANEL, help="Tokens a sequence (default: the model's, to 8192)."),
    ] = None
    precision: Annotated[
        Precision | None, _option("--precision", panel=JOB_PANEL, help="Number format (default: bf16 or its best kin).")
    ] = None
    software: Annotated[
        str | None, _option("--software", panel=JOB_PANEL, help="A software stack's name or .toml.")
    ] = None


@dataclass(frozen=True, slots=True)
class SplitFlags:
    """How the ranks share the step; None where the plan file or `Plan`'s default decides."""

    dp: Annotated[
        int | None, _option("--dp", panel=SPLIT_PANEL, help="Data-parallel degree (default: the devices left).")
    ] = None
    tp: Annotated[int | None, _option("--tp", panel=SPLIT_PANEL, help="Tensor-parallel degree.")] = None
    pp: Annotated[int | None, _option("--pp", panel=SPLIT_PANEL, help="Pipeline stages.")] = None
    cp: Annotated[int | None, _option("--cp", panel=SPLIT_PANEL, help="Context-parallel degree.")] = None
    ep: Annotated[int | None, _option("--ep", panel=SPLIT_PANEL, help="Expert-parallel degree, inside dp*cp.")] = None
    vp: Annotated[int | None, _option("--vp", panel=SPLIT_PANEL, help="Virtual stages a rank (interleaved).")] = None
    micro_batch: Annotated[int | None, _option("--micro-batch", panel=SPLIT_PANEL, help="Sequences a microbatch.")] = (
        None
    )
    schedule: Annotated[Schedule | None, _option("--schedule", panel=SPLIT_PANEL, help="Pipeline schedule.")] = None
    recompute: Annotated[
        RecomputePolicy | None, _option("--recompute", panel=SPLIT_PANEL, help="What the backward computes again.")
    ] = None
    sequence_parallel: Annotated[
        bool | None,
        _option(
            "--sequence-parallel/--no-sequence-parallel", panel=SPLIT_PANEL, help="Shard norms and dropout over tp."
        ),
    ] = None
    zero_stage: Annotated[
        int | None, _option("--zero-stage", panel=SPLIT_PANEL, help="0 replicates the optimizer, 1 shards it.")
    ] = None


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables (docs/json.md).")]


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given: name -> plain value."""
    values = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in values.items()
        if value is not None
    }


def takes(*groups: type[Any]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of each dataclass in `groups`; it receives one instance of each, by position.

    The command's own keyword-only parameters stay as they are and come after the shared ones in the help.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = [parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        shared = [_parameters(group) for group in groups]

        @wraps(command)
        def run(**values: Any) -> int:
            instances = [
                group(**{parameter.name: values.pop(parameter.name) for parameter in parameters})
                for group, parameters in zip(groups, shared, strict=True)
            ]
            return command(*instances, **values)

        parameters = [*kept[:1], *(one for group in shared for one in group), *kept[1:]]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]
