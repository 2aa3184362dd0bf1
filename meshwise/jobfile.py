"""Job and plan files: what a user asks, from a TOML or JSON file and command-line flags, as records.

A file has a `[job]` table; one that also has a `[split]` is a plan file.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from meshwise.amounts import amount
from meshwise.capacity.table import CapacityTable
from meshwise.money.table import MoneyTable
from planner.layout import EVEN, parsed
from planner.offload import Offload
from planner.order import USUAL_ORDER, OrderName
from planner.placement import parsed as parsed_placement
from planner.plan import Plan, ScheduleName, as_written
from planner.recompute import Module, Recompute
from profiles import catalog
from profiles.accelerator import Accelerator
from profiles.cluster import Cluster
from profiles.exchange import TOP_K_FRACTION, Compression, Exchange, Synchronization
from profiles.files import read_table, validated
from profiles.mixed import AnyCluster, groups_of
from profiles.model import MAX_LAYERS, LayerList, TransformerShape
from profiles.software import DEFAULT_STACK, SoftwareStack, with_precisions
from profiles.workload import COMPUTE_DTYPES, MAX_RANK, Precision, TrainingJob

TOKENS_PER_STEP = 4_194_304
"""Default batch in tokens, that of Llama 2 [Touvron 2023, arXiv:2307.09288, section 2.2]."""
SAMPLES_PER_DEVICE = 32
"""Default batch of a plain list of layers, that of ResNet-50 [Goyal 2017, arXiv:1706.02677, section 2.3]."""
MAX_DEFAULT_SEQUENCE = 8192
USUAL_STACKS = {"cpu": "pytorch-eager-cpu", "tpu": "jax-flash"}
"""Kind of accelerator -> the stack assumed on it where that is not the catalog's default: what `meshwise validate` runs
on a CPU, and what TPUs are programmed in."""

Degree = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=2_147_483_647)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class JobTable(_Table):
    """The `[job]` table; None where a default will do."""

    kind: Literal["training"] = "training"
    model: Name | None = None
    cluster: Name | None = None
    devices: Degree | None = None
    global_batch: Batch | None = None
    sequence_length: Batch | None = None
    precision: Precision | None = None
    software: Name | None = None
    optimizer: Literal["adam", "sgd"] | None = None
    gradient_precision: Literal["fp32", "bf16"] | None = None
    moment_precision: Literal["fp32", "bf16", "int8"] | None = None
    lora_rank: int = Field(default=0, ge=0, le=MAX_RANK)
    mtp_modules: int | None = Field(default=None, ge=0, le=64)
    expert_load_factor: float = Field(default=1.0, ge=1.0, allow_inf_nan=False, strict=False)
    expert_capacity_factor: float = Field(default=0.0, ge=0.0, allow_inf_nan=False, strict=False)
    gather_precision: Literal["model", "fp8"] = "model"
    secondary_shards: int = Field(default=0, ge=0, le=1_000_000)
    gradient_compression: Compression = "none"
    top_k_fraction: float = Field(default=TOP_K_FRACTION, gt=0.0, le=1.0, allow_inf_nan=False, strict=False)
    synchronization: Synchronization = "all-reduce"
    sync_interval: Degree = 1
    num_servers: int = Field(default=0, ge=0, le=1_000_000)
    bucket_mib: float = Field(default=0.0, ge=0.0, le=1e6, allow_inf_nan=False, strict=False)


UNNAMED_LAYOUTS = ("auto", "best")
"""Layouts that are found and not given: the best one always, or where the layers do not divide."""


class SplitTable(_Table):
    """The `[split]` table; dp left out is what the devices leave."""

    dp: Degree | None = None
    tp: Degree = 1
    pp: Degree = 1
    cp: Degree = 1
    ep: Degree = 1
    etp: Degree = 1
    cp_a2a: Degree = 1
    cp_gather: bool = False
    vp: Degree = 1
    layout: Name = "auto"
    micro_batch: Batch = 1
    schedule: ScheduleName | None = None
    recompute: Literal["none", "selective", "full", "operators"] = "none"
    recompute_modules: Name = "core_attn"
    recompute_layers: int = Field(default=0, ge=0, le=MAX_LAYERS)
    offload: Name = "nothing"
    sequence_parallel: bool = False
    zero_stage: int = Field(default=0, ge=0, le=3)
    reshard_after_forward: bool = True
    dp_replicate: Degree = 1
    order: OrderName = USUAL_ORDER
    placement: Name = "auto"


class JobFile(_Table):
    """A whole file."""

    job: JobTable = JobTable()
    split: SplitTable | None = None
    capacity: CapacityTable | None = None
    """What `meshwise capacity` asks; other commands leave it alone."""
    offers: list[dict[str, Any]] = Field(default_factory=list)
    """Offers of the user's own, as in a price list."""
    money: MoneyTable | None = None
    """What devices cost and where they stand, for `plan`, `estimate` and `simulate`."""


@dataclass(frozen=True, slots=True)
class Question:
    """A job with every name resolved and every default filled in."""

    job: TrainingJob
    cluster: AnyCluster
    stack: SoftwareStack
    table: JobTable
    """The same as names and numbers, nothing left out."""
    assumed: dict[str, str]
    """Fields that were not stated -> what was taken for them, in words."""

    def home(self, plan: Plan) -> Cluster:
        """The nodes of the rank that `plan` leaves the least memory; on nodes that are all alike all of them."""
        from planner.cost.mixed import home_of

        return home_of(plan, self.job, self.cluster, self.stack)

    def alike(self, asked: str) -> Cluster:
        """The cluster, for what works on nodes that are all alike; raises ValueError naming what was `asked`."""
        if isinstance(self.cluster, Cluster):
            return self.cluster
        raise ValueError(
            f"{asked}: needs a cluster whose nodes are all alike, and {self.cluster.name} has several groups"
        )


def read(path: Path | None, job_flags: Mapping[str, Any], split_flags: Mapping[str, Any]) -> JobFile:
    """The job file at `path` (none: empty) under the given flags, which win.

    Raises ValueError naming the file or the flags, the field, the value and what is right. Paths inside the
    file are relative to it.
    """
    values = dict(read_table(path)) if path else {}
    if "job" not in values and not values.keys().isdisjoint({"groups", "node"}):
        raise ValueError(f"{path}: describes a cluster, not a job; name it by --cluster, or in a [job] as its cluster")
    file = validated(JobFile, values, path) if path else JobFile()
    job = validated(JobTable, {**_set(file.job, path), **job_flags}, "command line")
    split = {**(_set(file.split, None) if file.split else {}), **split_flags}
    table = validated(SplitTable, split, "command line") if split or file.split else None
    return JobFile(job=job, split=table, capacity=file.capacity, offers=file.offers, money=file.money)


def question(table: JobTable) -> Question:
    """Resolve names and fill in defaults.

    Raises ValueError for an unknown name (with its neighbours), a missing model or cluster, or a sequence that
    the model cannot take.
    """
    for field, example, kind in (("model", "llama3-70b", "models"), ("cluster", "dgx-h100", "nodes")):
        if getattr(table, field) is None:
            raise ValueError(
                f"{field}: none given; name one (--{field} {example}) or pass a job file "
                f"(`meshwise profiles list {kind}` shows all)"
            )
    assert table.model is not None
    assert table.cluster is not None
    model = _with_modules(catalog.model(table.model), table.mtp_modules)
    cluster = catalog.any_cluster(table.cluster, table.devices)
    defaults = _defaults(table, model, cluster)
    _check_sequence(table, model)
    _check_experts(table, model)
    filled = table.model_copy(update=defaults)
    job = validated(
        TrainingJob,
        {
            "model": model,
            **filled.model_dump(include=set(TrainingJob.model_fields) - {"model", "exchange"}),
            "exchange": table.model_dump(include={*Exchange.model_fields, "bucket_mib"}),
        },
        "job",
    )
    for accelerator in accelerators_of(cluster):
        _check_precision(job, accelerator)
    stack = with_precisions(
        catalog.software(filled.software or DEFAULT_STACK), filled.gradient_precision, filled.moment_precision
    )
    assumed = {name: _words(name, value, job) for name, value in defaults.items()}
    return Question(job, cluster, stack, filled, assumed)


def emulated(table: JobTable, *, allowed: bool) -> tuple[Question, int | None]:
    """The question, and how many ranks take turns on the cores of its cluster where it asks for more than it has.

    None if it has enough, or its devices are no cores of a machine. Raises ValueError where that is not `allowed`.
    """
    if table.cluster is None or table.devices is None:
        return question(table), None
    cluster = catalog.any_cluster(table.cluster)
    if cluster.num_devices >= table.devices or accelerators_of(cluster)[0].kind != "cpu":
        return question(table), None
    if not allowed:
        raise ValueError(
            f"devices: {table.devices} ranks would take turns on the {cluster.num_devices} cores of {cluster.name}; "
            f"take {cluster.num_devices}, or give --oversubscribe to run and predict them so"
        )
    return question(table.model_copy(update={"devices": None})), table.devices


def plan(split: SplitTable, num_devices: int) -> Plan:
    """The plan of a split on `num_devices`; dp left out is derived, and so is the schedule from vp.

    A placement says how many replicas there are, and may leave devices idle. Raises ValueError when the degrees do not
    multiply to the devices.
    """
    placement = parsed_placement(split.placement)
    if placement:
        replicas = sum(lane.num_replicas for lane in placement)
        if split.dp not in (None, replicas):
            raise ValueError(f"dp: the placement has {replicas} replicas, got dp={split.dp}; leave dp out")
        num_devices = replicas * split.tp * split.pp * split.cp
    others = split.tp * split.pp * split.cp
    product = f"tp*pp*cp = {split.tp}*{split.pp}*{split.cp} = {others}"
    dp = split.dp or num_devices // others
    if split.dp is None and num_devices % others:
        raise ValueError(f"dp: {product} does not divide {num_devices} devices; choose degrees whose product does")
    if dp * others != num_devices:
        raise ValueError(
            f"dp: dp*tp*pp*cp = {dp}*{split.tp}*{split.pp}*{split.cp} = {dp * others}, but there are "
            f"{num_devices} devices; the product must equal it (leave dp out to have it derived)"
        )
    values = split.model_dump(
        exclude={"dp", "schedule", "layout", "recompute", "recompute_modules", "offload", "placement"}
    )
    schedule = split.schedule or ("interleaved" if split.vp > 1 else "1f1b")
    recompute, modules = Recompute.parse(split.recompute), Module.parse(split.recompute_modules)
    layout = EVEN if split.layout in UNNAMED_LAYOUTS else parsed(split.layout)
    return Plan(dp=dp, schedule=schedule, layout=layout, recompute=recompute, recompute_modules=modules,
                placement=placement, offload=Offload.parse(split.offload), **values)  # fmt: skip


def devices_of(file: JobFile) -> JobTable:
    """The job table with devices taken from a complete split when nobody states them."""
    split = file.split
    if file.job.devices is not None or split is None or split.dp is None or split.placement != "auto":
        return file.job
    return validated(JobTable, {**_set(file.job, None), "devices": split.dp * split.tp * split.pp * split.cp}, "split")


def render(table: JobTable, plan: Plan, folder: Path) -> str:
    """A plan file's text; relative paths are written relative to `folder`, where the file will be."""
    job = {"kind": table.kind, **table.model_dump(exclude_none=True, exclude_defaults=True)}
    for name in ("model", "cluster", "software"):
        if _is_path(job.get(name)) and not os.path.isabs(job[name]):
            job[name] = os.path.relpath(job[name], folder)
    lines = ["[job]", *(f"{name} = {_toml(value)}" for name, value in job.items()), "", "[split]"]
    return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in as_written(plan).items())]) + "\n"


def _set(table: BaseModel, path: Path | None) -> dict[str, Any]:
    """Fields that were set, with file names made relative to the job file's folder."""
    values = table.model_dump(exclude_unset=True)
    for name in ("model", "cluster", "software"):
        if path is not None and _is_path(values.get(name)) and not os.path.isabs(values[name]):
            values[name] = os.path.normpath(path.parent / values[name])
    return values


def _is_path(name: Any) -> bool:
    return isinstance(name, str) and (name.lower().endswith((".toml", ".json")) or name.startswith((".", os.sep)))


def _toml(value: bool | int | str) -> str:
    """A plain value as TOML, which is JSON here but for one letter it wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _defaults(table: JobTable, model: TransformerShape | LayerList, cluster: AnyCluster) -> dict[str, Any]:
    """Values of the fields that `table` leaves open."""
    length = min(model.max_sequence_length, MAX_DEFAULT_SEQUENCE) if isinstance(model, TransformerShape) else 1
    values = {
        "devices": cluster.num_devices,
        "sequence_length": length,
        "global_batch": _default_batch(model, table.sequence_length or length, cluster.num_devices),
        "precision": _default_precision(accelerators_of(cluster)),
        "software": USUAL_STACKS.get(accelerators_of(cluster)[0].kind, DEFAULT_STACK),
        "optimizer": "adam",
    }
    return {name: value for name, value in values.items() if getattr(table, name) is None}


def _default_batch(model: TransformerShape | LayerList, sequence_length: int, num_devices: int) -> int:
    """About TOKENS_PER_STEP, as a number that splits over the devices: a multiple of them, or a divisor."""
    if isinstance(model, LayerList):
        return SAMPLES_PER_DEVICE * num_devices
    sequences = max(1, TOKENS_PER_STEP // sequence_length)
    if sequences >= num_devices:
        return round(sequences / num_devices) * num_devices
    return max(divisor for divisor in range(1, sequences + 1) if num_devices % divisor == 0)


def accelerators_of(cluster: AnyCluster) -> tuple[Accelerator, ...]:
    """The kinds of accelerators of a cluster, each once."""
    return tuple({group.accelerator.name: group.accelerator for _, group in groups_of(cluster)}.values())


def _default_precision(accelerators: tuple[Accelerator, ...]) -> str:
    """bf16 where the devices have it, else the nearest format they all have; CPUs train in fp32."""
    wanted = ("fp32",) if accelerators[0].kind == "cpu" else ("bf16", "fp16", "fp32")
    usable = (name for name in wanted if all(name in one.peak_flops_per_second for one in accelerators))
    return next(usable, "bf16")


def _check_sequence(table: JobTable, model: TransformerShape | LayerList) -> None:
    if isinstance(model, LayerList) and table.sequence_length not in (None, 1):
        raise ValueError(
            f"sequence_length: {model.name} is a plain list of layers without a sequence; leave it out, "
            f"got {table.sequence_length}"
        )


def _check_experts(table: JobTable, model: TransformerShape | LayerList) -> None:
    if isinstance(model, TransformerShape) and model.moe is not None:
        return
    for name in ("expert_load_factor", "expert_capacity_factor"):
        value = getattr(table, name)
        if value != JobTable.model_fields[name].default:
            raise ValueError(f"{name}: {value:g} describes rows of experts, and {model.name} has none; leave it out")


def _with_modules(model: TransformerShape | LayerList, mtp_modules: int | None) -> TransformerShape | LayerList:
    """The model with so many modules that predict further tokens; None: as its record says."""
    if mtp_modules is None:
        return model
    if isinstance(model, LayerList):
        raise ValueError(f"mtp_modules: {model.name} is a plain list of layers; leave it out, got {mtp_modules}")
    return validated(TransformerShape, {**model.model_dump(), "num_mtp_modules": mtp_modules}, "mtp_modules")


def _check_precision(job: TrainingJob, accelerator: Accelerator) -> None:
    """A format that no unit of the device multiplies in would be priced at the rate of another."""
    peaks = accelerator.peak_flops_per_second
    known = [name for name in get_args(Precision) if COMPUTE_DTYPES.get(name, name) in peaks]
    if "mxfp8" in known and not accelerator.block_scaling:
        known.remove("mxfp8")
    if job.precision not in known:
        raise ValueError(f"precision: {accelerator.name} has no units for {job.precision}; choose {', '.join(known)}")


def _words(name: str, value: Any, job: TrainingJob) -> str:
    """One assumption as people say it; nothing for the sequence of a list of layers, which has none."""
    if name == "sequence_length" and isinstance(job.model, LayerList):
        return ""
    if name == "global_batch":
        if isinstance(job.model, LayerList):
            return f"global batch {value:,} ({SAMPLES_PER_DEVICE} a device)"
        return f"global batch {value:,} ({amount(job.tokens_per_step)} tokens)"
    return f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name} {value}"
