"""A measured plan as a row of the table that `score training` reads, and the file that such rows are added to."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from planner.plan import Plan
from planner.recompute import Recompute
from profiles.cluster import Cluster
from profiles.model import LayerList
from profiles.parameters import num_parameters
from profiles.units import GIB, GIGA
from profiles.workload import TrainingJob
from validate.calibration.machine import machine_words, torch_version
from validate.measured import Measurement
from validate.runs.table import COLUMNS, BadTable, Run, read_runs

FRAMEWORK = "pytorch"
"""What `validate` runs, in the words of `validate.runs.frameworks`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One plan as it was measured here."""

    job: TrainingJob
    plan: Plan
    cluster: Cluster
    measurement: Measurement
    peak_bytes: float


def row_of(found: Measured, today: date) -> Run:
    """The row of a measured plan; the source column says machine, torch and date."""
    job, plan, model = found.job, found.plan, found.job.model
    if isinstance(model, LayerList):
        raise ValueError(f"model: a table of runs holds transformers, and {model.name} is a list of layers")
    moe = model.moe
    seconds, launches = found.measurement.step_seconds, found.measurement.launches
    node = found.cluster.tiers[0]
    return Run(
        id=f"{today.isoformat()} {model.name} {job.global_batch}x{job.sequence_length} {job.precision} {plan}",
        source=f"meshwise validate on {machine_words()}, torch {torch_version()}, {today.isoformat()}",
        model=model.name,
        params_b=num_parameters(model) / GIGA,
        layers=model.num_layers,
        hidden=model.hidden_size,
        ffn_hidden=moe.expert_ffn_size if moe else model.ffn_size,
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        vocab=model.vocabulary_size,
        seq_len=job.sequence_length,
        num_experts=moe.num_experts if moe else 0,
        topk=moe.top_k if moe else 0,
        accelerator=found.cluster.accelerator.name,
        num_accelerators=plan.num_ranks,
        gpus_per_node=min(node.num_devices, plan.num_ranks),
        interconnect=", ".join(tier.link for tier in found.cluster.tiers),
        global_batch_seqs=job.global_batch,
        micro_batch_seqs=plan.micro_batch,
        tp=plan.tp,
        sp=plan.sequence_parallel,
        pp=plan.pp,
        vp=plan.vp,
        cp=plan.cp,
        ep=plan.ep,
        dp=plan.dp,
        zero_stage_or_fsdp=_sharding(plan),
        recompute="none" if plan.recompute == Recompute.NONE else plan.recompute.name.lower(),
        precision=job.precision,
        framework=FRAMEWORK,
        attention_kernel="flash",
        other_flags=_flags(plan),
        iteration_time_s=seconds,
        tokens_per_s_per_gpu=job.tokens_per_step / seconds / plan.num_ranks,
        model_tflops_per_gpu=None,
        hw_tflops_per_gpu=None,
        mfu=None,
        peak_memory_gb=found.peak_bytes / GIB,
        oom=False,
        notes=f"peak allocated in GiB; median of {len(launches)} launches of {len(launches[0].step_seconds)} steps; "
        f"noise {found.measurement.noise_fraction:.3f}; contended {found.measurement.num_contended}",
    )


def _flags(plan: Plan) -> str:
    """What has no column of its own."""
    said = [f"schedule {plan.schedule}"] if plan.pp > 1 else []
    if plan.dp_replicate > 1:
        said.append(f"shard group size {plan.dp * plan.cp // plan.dp_replicate}")
    return "; ".join(said)


def _sharding(plan: Plan) -> str:
    """ZeRO's stage, or the word for groups of replicas."""
    if plan.zero_stage < 3:
        return str(plan.zero_stage)
    if not plan.reshard_after_forward:
        raise ValueError("reshard_after_forward: false: the columns of a table of runs have no word for it")
    return "hsdp" if plan.dp_replicate > 1 else "3"


def check_table(path: Path) -> None:
    """Raise BadTable when rows cannot be added to `path` because it is something else."""
    if path.exists():
        read_runs(path)


def append_rows(path: Path, rows: Sequence[Run]) -> None:
    """Add rows to a table, which is made where there is none.

    Raises BadTable when the file is no table of runs, or holds a row of the same id already.
    """
    known = {run.id for run in read_runs(path)} if path.exists() else set()
    for row in rows:
        if row.id in known:
            raise BadTable(f"{path}: it has a row {row.id!r} already; remove that row or take another file")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns_of(path), lineterminator="\n")
        if not path.stat().st_size:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in asdict(row).items()})


def _columns_of(path: Path) -> Sequence[str]:
    """The columns of a table in their order, or the usual ones of an empty file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), COLUMNS)


def _cell(value: object) -> str:
    """Nothing, a flag, or a figure as short as it can be read back."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
