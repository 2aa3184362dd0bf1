"""Command-line options that several commands share, each declared once, and the decorator that adds them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


def _job(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel="The job", show_default=False)


_LAYOUTS = "Layers by chunk: even, best, 4,4,3 or Megatron-Core's Et*4|t*4|t*3L (default: best if not even)."
_SCHEDULES = "gpipe, 1f1b, interleaved, breadth-first, zb-h1, zb-h2, zb-v, dualpipe or dualpipe-v (default: by --vp)."


_PLACEMENTS = "Stages by group of nodes and microbatches of each replica: 4 of h100*3,a100 @64 (default: auto)."


def _split(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel="The split", show_default=False)


@dataclass(frozen=True, slots=True)
class JobFlags:
    """What is trained, and on what; None where the job file or a default decides."""

    model: Annotated[str | None, _job("A model's name, a Hugging Face config.json, or a model .toml.")] = None
    cluster: Annotated[str | None, _job("A cluster, node or accelerator by name, or a cluster .toml.")] = None
    devices: Annotated[int | None, _job("Accelerators to use (default: one node).")] = None
    global_batch: Annotated[int | None, _job("Sequences a step (default: about 4 Mi tokens).")] = None
    sequence_length: Annotated[int | None, _job("Tokens a sequence (default: the model's, to 8192).")] = None
    precision: Annotated[
        str | None, _job("fp32, bf16, fp16, fp8, mxfp8 or nvfp4 (default: bf16 where there is one).")
    ] = None
    software: Annotated[str | None, _job("A software stack's name or .toml.")] = None
    optimizer: Annotated[str | None, _job("adam or sgd (default: adam).")] = None
    gradient_precision: Annotated[str | None, _job("fp32 or bf16 sums (default: the stack's).")] = None
    moment_precision: Annotated[str | None, _job("fp32, bf16 or int8 (default: the stack's).")] = None
    lora_rank: Annotated[int | None, _job("Train adapters of this rank on q, k, v; freeze the rest.")] = None
    mtp_modules: Annotated[int | None, _job("Modules that predict further tokens (default: the model's).")] = None
    expert_load_factor: Annotated[float | None, _job("Rows on the busiest expert rank over the mean.")] = None
    expert_capacity_factor: Annotated[float | None, _job("Drop rows beyond this many times the mean.")] = None
    gather_precision: Annotated[str | None, _job("Gather sharded parameters in fp8, or as the model's.")] = None
    secondary_shards: Annotated[int | None, _job("Neighbours that backward passes gather among (ZeRO++).")] = None
    gradient_compression: Annotated[str | None, _job("none, fp16, bf16, int8 or top-k (with error feedback).")] = None
    top_k_fraction: Annotated[float | None, _job("Share of the gradient that top-k sends.")] = None
    synchronization: Annotated[str | None, _job("all-reduce, local, parameter-server or asynchronous.")] = None
    sync_interval: Annotated[int | None, _job("Steps between two averages of local training (DiLoCo).")] = None
    num_servers: Annotated[int | None, _job("Ranks that serve parameters (default: all).")] = None
    bucket_mib: Annotated[float | None, _job("Gradients reduced together (default: a layer's).")] = None


@dataclass(frozen=True, slots=True)
class SplitFlags:
    """How the ranks share the step; None where the plan file or `Plan`'s default decides."""

    dp: Annotated[int | None, _split("Data-parallel degree (default: the devices left).")] = None
    tp: Annotated[int | None, _split("Tensor-parallel degree.")] = None
    pp: Annotated[int | None, _split("Pipeline stages.")] = None
    cp: Annotated[int | None, _split("Context-parallel degree.")] = None
    ep: Annotated[int | None, _split("Expert-parallel degree; etp*ep divides tp*cp*dp.")] = None
    etp: Annotated[int | None, _split("Ranks that share the width of each expert.")] = None
    cp_a2a: Annotated[int | None, _split("Ranks of cp that trade heads by all-to-all (Ulysses).")] = None
    cp_gather: Annotated[bool | None, _split("Gather keys and values instead of a ring.")] = None
    vp: Annotated[
        int | None, _split("Virtual stages a rank (interleaved, breadth-first; 2 for zb-v and dualpipe-v).")
    ] = None
    layout: Annotated[str | None, _split(_LAYOUTS)] = None
    micro_batch: Annotated[int | None, _split("Sequences a microbatch.")] = None
    schedule: Annotated[str | None, _split(_SCHEDULES)] = None
    recompute: Annotated[str | None, _split("none, selective (modules), full (layers) or operators.")] = None
    recompute_modules: Annotated[str | None, _split("Of selective: e.g. core_attn,mlp (default: core_attn).")] = None
    recompute_layers: Annotated[int | None, _split("Of full: layers of each chunk (default: all).")] = None
    offload: Annotated[str | None, _split("To the host: optimizer, activations, parameters.")] = None
    sequence_parallel: Annotated[bool | None, _split("Shard norms and dropout over tp.")] = None
    zero_stage: Annotated[int | None, _split("Shard 1: optimizer, 2: gradients too, 3: parameters too.")] = None
    reshard_after_forward: Annotated[bool | None, _split("Of ZeRO 3: gather again for backward (default).")] = None
    dp_replicate: Annotated[int | None, _split("Groups that each hold all shards (HSDP).")] = None
    placement: Annotated[str | None, _split(_PLACEMENTS)] = None
    order: Annotated[str | None, _split("Axes as ranks are numbered, inner first (default: tp-cp-dp-pp).")] = None


def _search(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="The search", **more)


@dataclass(frozen=True, slots=True)
class SearchFlags:
    """Which plans are looked at, and what they are ranked by."""

    top: Annotated[int, _search("Plans to show.", min=1, max=1000)] = 10
    fix: Annotated[
        list[str] | None, _search("Hold a field of the plan, e.g. tp=8; repeatable.", metavar="FIELD=VALUE")
    ] = None
    require: Annotated[
        list[str] | None,
        _search('A condition on plans, e.g. "memory<=70GiB" or "tp<=8"; repeatable.', metavar="CONDITION"),
    ] = None
    objective: Annotated[
        str,
        _search(
            "Rank by the step's time, the fullest rank's memory, or dollars (with a price).",
            metavar="time|memory|dollars",
        ),
    ] = "time"
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Also show the plans that no other beats in both time and memory.",
                           rich_help_panel="The search")
    ] = False  # fmt: skip
    explain: Annotated[
        str | None,
        _search("Compare plan 1 part by part with another: its number, or its split.", metavar="N|tp=8,pp=4,..."),
    ] = None
    scale: Annotated[
        str | None,
        _search("Also find the best plan on other numbers of devices, with the same batch.", metavar="64,128,..."),
    ] = None
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Try every choice of every option, also those rarely worth it.",
                           rich_help_panel="The search")
    ] = False  # fmt: skip
    max_micro_batch: Annotated[
        int | None, _search("Largest microbatch to consider (default: 16 sequences, 256 samples).", min=1, max=4096)
    ] = None
    no_simulate: Annotated[
        bool, typer.Option("--no-simulate", help="Rank by the estimate alone; by default the best are simulated.",
                           rich_help_panel="The search")
    ] = False  # fmt: skip


def _money(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Money", show_default=False, **more)


@dataclass(frozen=True, slots=True)
class MoneyFlags:
    """What devices cost, and where they stand; None where the job file or the catalog decides."""

    offer: Annotated[
        str | None, _money("What the devices are rented or bought as: a name of `profiles list offers`.")
    ] = None
    offers: Annotated[Path | None, _money("A price list of your own (.toml with [[offers]]).")] = None
    price: Annotated[float | None, _money("Dollars a device and hour, in place of an offer.")] = None
    tokens: Annotated[str | None, _money("Count dollars for so many tokens, e.g. 15T or 300B.")] = None
    country: Annotated[str | None, _money("Where the devices stand (default: the offer's region).")] = None
    pue: Annotated[float | None, _money("Power of the site over that of its computers (default: the provider's).")] = (
        None
    )
    electricity_dollars_per_kwh: Annotated[float | None, _money("Of an owner (default: the country's).")] = None
    carbon_grams_per_kwh: Annotated[float | None, _money("CO2 of the grid (default: the region's).")] = None


def _long(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="A long run (with --days)", **more)


@dataclass(frozen=True, slots=True)
class LongRunFlags:
    """A run over weeks with interruptions; None where the fleet or a default decides."""

    days: Annotated[float | None, _long("Play so many days of interruptions, checkpoints and restarts.")] = None
    fleet: Annotated[
        str | None, _long("Whose failures: a name of `profiles list reliability`, or a .toml (default: llama3-405b).")
    ] = None
    checkpoint_minutes: Annotated[float | None, _long("Work between checkpoints (default: what is best).")] = None
    storage_gb_per_second: Annotated[float | None, _long("Rate of the storage (default: the fleet's a device).")] = None
    async_stall_seconds: Annotated[
        float | None, _long("Write checkpoints beside the steps, which stall so long at each (default: write at once).")
    ] = None
    spares: Annotated[int | None, _long("Spare nodes (default: one in twenty).", min=0)] = None
    elastic: Annotated[bool | None, _long("Go on with fewer replicas when no spare is left.")] = None
    peer_minutes: Annotated[
        float | None, _long("Also copy the state into the memory of other nodes, so often (default: not).")
    ] = None
    peer_stall_seconds: Annotated[
        float | None, _long("The steps stall so long at each such copy (default: 0, copied beside them).")
    ] = None
    switch_share: Annotated[float | None, _long("Share of interruptions that are of a switch (default: 0).")] = None
    switch_nodes: Annotated[int | None, _long("Nodes that a switch takes with it (default: 4).", min=1)] = None
    runs: Annotated[int | None, _long("Runs to play (default: 100).", min=2, max=100_000)] = None
    workers: Annotated[
        int | None, _long("Processes that share the runs (default: one a core from 1,000 runs on).", min=1)
    ] = None
    scheduler: Annotated[
        str | None, _long("Share the runs over a Dask cluster, by the address of its scheduler.", metavar="ADDRESS")
    ] = None
    resume: Annotated[
        Path | None, _long("Keep finished runs in this file, and take up those that it holds (.jsonl).")
    ] = None
    seed: Annotated[int | None, _long("Seed of all draws, also of --network (default: 0).", min=0)] = None


def _network(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="The network (with --network flows)", **more)


@dataclass(frozen=True, slots=True)
class NetworkFlags:
    """The network a step is played on; None where there is none, or a default decides."""

    network: Annotated[
        str | None, _network("flows: messages share the links of the cluster's network.", metavar="flows")
    ] = None
    fabric: Annotated[
        str | None, _network("How nodes are wired: a name of `profiles list fabrics`, or a .toml (default: fat trees).")
    ] = None
    fidelity: Annotated[
        str | None, _network("One rank for all that do the same, or each by itself (default: folded).",
                             metavar="folded|ranks")
    ] = None  # fmt: skip
    slow_host: Annotated[
        list[str] | None, _network("A host's share of its rate, or power limit: 3=0.8, 3=500W; repeatable.",
                                   metavar="HOST=SHARE")
    ] = None  # fmt: skip
    speed_spread: Annotated[float | None, _network("Spread of devices' rates over their mean, e.g. 0.02.")] = None
    jitter: Annotated[float | None, _network("Spread of each action's time over its mean.")] = None
    os_noise: Annotated[
        str | None, _network("Detours of the operating system, e.g. 50us/10ms.", metavar="DURATION/PERIOD")
    ] = None
    background: Annotated[float | None, _network("Share of the links between nodes that others use.")] = None
    slow_link: Annotated[
        list[str] | None, _network("A link's share of its rate: rank0:infiniband-leaf0=0.5; repeatable.",
                                   metavar="LINK=SHARE")
    ] = None  # fmt: skip
    failed_link: Annotated[
        list[str] | None, _network("A link that is down: FROM:TO, or A=B for both ways; repeatable.", metavar="LINK")
    ] = None


@dataclass(frozen=True, slots=True)
class ReportFlags:
    """Which reports are written of an answer."""

    report: Annotated[
        list[Path] | None,
        typer.Option(help="Write a report: a page (.html), a document (.pdf), pictures (a folder); repeatable.",
                     metavar="FILE|DIR/", show_default=False),
    ] = None  # fmt: skip

    def check(self, force: bool) -> None:
        """Raise ValueError for a report that could not be written."""
        if self.report:
            from meshwise.report import writing

            writing.check(self.report, force)

    def write(self, kind: str, force: bool, *answer: Any) -> None:
        """Write the report of that kind (`meshwise.report.kinds`) of an answer, and say so on stderr."""
        if self.report:
            from meshwise import screen
            from meshwise.report import assembling, writing

            writing.write(self.report, assembling.find(kind)(*answer), force)
            for path in self.report:
                screen.say(f"wrote {path}")


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables (docs/json.md).")]


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given: name -> value."""
    values = {field.name: getattr(flags, field.name) for field in fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


def changed(flags: Any, *but: str) -> dict[str, Any]:
    """The flags, except those in `but`, that are not at their defaults: name -> value."""
    values = {field.name: getattr(flags, field.name) for field in fields(flags) if field.name not in but}
    defaults = {field.name: field.default for field in fields(flags)}
    return {name: value for name, value in values.items() if value != defaults[name]}


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
