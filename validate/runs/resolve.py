"""A row of a table of runs as what the planner takes: job, cluster, plan and stack; or why it cannot be.

Nothing here looks at a row's id or source: rows that say the same are modelled the same. A model's name counts only
as far as the catalog knows it (`validate.runs.known`).
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import cast, get_args

from planner.cost.layouts import fastest_layout
from planner.plan import Plan
from planner.work.layers import divides_evenly, num_blocks
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import MixtureOfExperts, TransformerShape
from profiles.parameters import num_parameters
from profiles.software import SoftwareStack
from profiles.units import GIGA
from profiles.workload import Precision, TrainingJob
from validate.runs.clusters import Own, accelerator_name, cluster_of
from validate.runs.frameworks import Framework, framework_of, stack_of
from validate.runs.known import known_shape
from validate.runs.offloading import offload_of
from validate.runs.pipelining import schedule_of
from validate.runs.recomputation import recomputation_of
from validate.runs.sharding import STRATEGIES, exchange_of, sharding_fields
from validate.runs.table import Run
from validate.runs.whole_batch import with_whole_batch

GPT2_VOCABULARY = 50257
"""Assumed where a source names no vocabulary (Radford 2019)."""
USUAL_LORA_RANK = 32
"""Rank of adapters that no source states; a step hardly depends on it."""
USUAL_HEAD_DIMS = (128, 64)
NARROW_HIDDEN = 2048
"""Models narrower than this have heads of 64 where nothing is stated, as every GPT-2 and BERT has, others of 128."""
LARGEST_VOCABULARY = 300_000
"""A size that a shape of unstated vocabulary does not reach is put down to its vocabulary, up to this."""
HEAD_DIMS = (64, 128, 192, 256)
HEAD_TOLERANCE_FRACTION = 0.01
"""A shape further than this from the stated size may have heads of another width, if that brings it within half."""
SIZE_TOLERANCE_FRACTION = 0.06
"""How far the parameters of a row's shape may be from the size its source states."""


CPU_STACK = "pytorch-eager-cpu"
"""What runs on CPUs: `meshwise validate`."""


class Unmodelled(ValueError):
    """A row that cannot be predicted; the message is the reason, in words that rows share."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A run as the planner sees it."""

    run: Run
    job: TrainingJob
    cluster: Cluster
    plan: Plan
    stack: SoftwareStack


def resolve(run: Run, own: Own = MappingProxyType({})) -> Setting:
    """The setting of a run, on the user's `own` cluster of its accelerator where there is one.

    Raises Unmodelled with the reason when the row says too little or too much.
    """
    _refuse(run)
    rule = framework_of(run)
    if rule is None:
        raise Unmodelled("framework is not described by a software stack")
    if rule.whole_batch:
        run = with_whole_batch(run, shards=rule.zero_stage == 3)
    job = _job(run)
    assert isinstance(job.model, TransformerShape)
    cluster = _cluster(run, own)
    plan = _plan(run, rule, cluster, job.model)
    _check_split(run, plan, job)
    try:
        cluster.accelerator.flops_per_second(job.compute_dtype)
    except ValueError:
        raise Unmodelled(f"accelerator has no peak for {job.precision}") from None
    stack = stack_of(run, replace(rule, stack=CPU_STACK) if cluster.accelerator.kind == "cpu" else rule)
    return Setting(run, job, cluster, _laid_out(plan, job, cluster, stack), stack)


def _laid_out(plan: Plan, job: TrainingJob, cluster: Cluster, stack: SoftwareStack) -> Plan:
    """A plan whose layers do not divide into its stages, with the layout a user of the stack would have balanced."""
    if not stack.uneven_stages or divides_evenly(num_blocks(job.model), plan.pp * plan.vp):
        return plan
    return replace(plan, layout=fastest_layout(plan, job, cluster, stack))


_WARNINGS = ("INVALID", "INCONSISTENT", "SUSPICIOUS", "fluctuate", "regression in this release", "may be padded")
_OTHER_WORK = ((r"CUDA_LAUNCH_BLOCKING=1", "kernels were launched one by one (a debugging mode)"),)


def _refuse(run: Run) -> None:
    for warning in _WARNINGS:
        if warning.lower() in run.notes.lower():
            raise Unmodelled(f"its notes say {warning}")
    for pattern, reason in _OTHER_WORK:
        if re.search(pattern, f"{run.model} {run.other_flags}", re.IGNORECASE):
            raise Unmodelled(reason)
    if run.zero_stage_or_fsdp not in STRATEGIES:
        raise Unmodelled(f"sharding {run.zero_stage_or_fsdp} is not modelled")


def _job(run: Run) -> TrainingJob:
    known = known_shape(run)
    if not ((known or (run.layers and run.hidden)) and run.seq_len and run.global_batch_seqs):
        raise Unmodelled("model shape, sequence length or batch is not stated")
    precision = run.precision or "bf16"
    if precision not in get_args(Precision):
        raise Unmodelled(f"precision {precision} is not modelled")
    return TrainingJob(
        model=known or _shape(run), global_batch=run.global_batch_seqs, sequence_length=run.seq_len,
        precision=cast("Precision", precision), exchange=exchange_of(run),
        lora_rank=USUAL_LORA_RANK if _trains_adapters(run) else 0,
    )  # fmt: skip


def _trains_adapters(run: Run) -> bool:
    return bool(re.search(r"\blora\b|peft", f"{run.model} {run.other_flags}", re.IGNORECASE))


def _shape(run: Run) -> TransformerShape:
    """The transformer of a row. Whether it is gated is not in the table: the size decides, else the width."""
    assert run.layers
    assert run.hidden
    assert run.seq_len
    heads = run.heads or _usual_heads(run.hidden, run.tp or 1)
    dense_width = 4 * run.hidden
    moe = None
    if run.num_experts:
        if not (run.topk and run.ffn_hidden):
            raise Unmodelled("experts are not described")
        moe = MixtureOfExperts(num_experts=run.num_experts, top_k=run.topk, expert_ffn_size=run.ffn_hidden)
    elif run.ffn_hidden:
        dense_width = run.ffn_hidden
    try:
        shapes = [_transformer(run, heads, dense_width, moe, gated, run.vocab) for gated in (False, True)]
    except ValueError:
        raise Unmodelled("model shape contradicts itself") from None
    if not run.params_b:
        if moe is not None:
            raise Unmodelled("size of a sparse model is not stated, so its shape cannot be checked")
        return shapes[dense_width != 4 * run.hidden]
    return _of_stated_size(run, shapes, run.params_b * GIGA)


def _usual_heads(hidden: int, tp: int) -> int:
    """The number of heads where a source states none; raises Unmodelled if no usual width fits."""
    dims = USUAL_HEAD_DIMS if hidden >= NARROW_HIDDEN else USUAL_HEAD_DIMS[::-1]
    for dim in dims:
        if hidden % (dim * tp) == 0:
            return hidden // dim
    raise Unmodelled("number of attention heads is not stated, and no usual head width fits")


def _of_stated_size(run: Run, shapes: list[TransformerShape], stated: float) -> TransformerShape:
    """The shape whose parameters come nearest to what the source states; raises Unmodelled if none is near.

    What the table has no column for is looked for where the size is off: a head that is not hidden / heads
    wide, then a vocabulary that is not stated.
    """

    def miss(shape: TransformerShape) -> float:
        return abs(num_parameters(shape) / stated - 1.0)

    best = min(shapes, key=miss)
    if miss(best) > HEAD_TOLERANCE_FRACTION:
        wider = [best.model_copy(update={"head_dim": dim}) for dim in HEAD_DIMS]
        if miss(found := min(wider, key=miss)) < HEAD_TOLERANCE_FRACTION / 2.0:
            return found
    if miss(best) <= SIZE_TOLERANCE_FRACTION:
        return best
    missing = (stated - num_parameters(best)) / (2.0 * best.hidden_size) + best.vocabulary_size
    if run.vocab is None and not best.gated_ffn and missing < LARGEST_VOCABULARY:
        return best.model_copy(update={"tied_embeddings": False, "vocabulary_size": int(missing)})
    raise Unmodelled("stated size disagrees with the stated shape (parts of the model are not in the table)")


@lru_cache(maxsize=4096)
def _transformer(
    run: Run, heads: int, ffn_size: int, moe: MixtureOfExperts | None, gated: bool, vocabulary: int | None
) -> TransformerShape:
    """Gated shapes are those of Llama (rotary, RMS norm, untied), others those of GPT (learned positions, biases)."""
    assert run.layers
    assert run.hidden
    assert run.seq_len
    learned = 0 if gated else run.seq_len
    return TransformerShape(
        name=run.model or "unnamed", source=run.source or "a table of runs", family="table",
        num_layers=run.layers, hidden_size=run.hidden, num_heads=heads, num_kv_heads=run.kv_heads or heads,
        head_dim=max(1, run.hidden // heads), ffn_size=ffn_size, vocabulary_size=vocabulary or GPT2_VOCABULARY,
        max_sequence_length=run.seq_len, gated_ffn=gated, tied_embeddings=not gated,
        num_learned_positions=learned, linear_bias=not gated, norm="rms_norm" if gated else "layer_norm", moe=moe,
    )  # fmt: skip


def _plan(run: Run, rule: Framework, cluster: Cluster, model: TransformerShape) -> Plan:
    if not (run.tp and run.pp and run.dp and run.micro_batch_seqs):
        raise Unmodelled("split or micro-batch is not stated")
    try:
        recomputation = recomputation_of(run, catalog.software(rule.stack), _peak(run, cluster))
    except ValueError:
        raise Unmodelled(f"recomputation {run.recompute} is not modelled") from None
    offload = offload_of(run)
    if offload and cluster.accelerator.host_bytes_per_second is None:
        raise Unmodelled("what is offloaded goes over a link whose rate is not known")
    vp = _virtual_stages(run, rule, model.num_layers) if run.pp > 1 else 1
    etp = _expert_tp(run, rule) if model.moe else 1
    try:
        schedule, vp = schedule_of(run, vp)
    except ValueError as unknown:
        raise Unmodelled(str(unknown)) from None
    cp = run.cp or 1
    return Plan(
        dp=run.dp, tp=run.tp, pp=run.pp, cp=cp, ep=run.ep or 1, etp=etp, vp=vp,
        cp_a2a=cp if re.search(r"\bCP comm type a2a\b(?!\+)", run.notes) else 1,
        micro_batch=run.micro_batch_seqs, schedule=schedule,
        sequence_parallel=run.tp > 1 and (rule.sequence_parallel if run.sp is None else run.sp),
        **sharding_fields(run, rule, cluster.devices_per_node), **recomputation, offload=offload,
    )  # fmt: skip


def _peak(run: Run, cluster: Cluster) -> float:
    """The rate that utilisations are stated in: of bf16, or of what the run multiplies in."""
    peaks = {str(name): rate for name, rate in cluster.accelerator.peak_flops_per_second.items()}
    return next((peaks[name] for name in (run.precision, "bf16", "fp16") if name in peaks), 0.0)


def _virtual_stages(run: Run, rule: Framework, num_layers: int) -> int:
    """Virtual stages as stated; where recipes interleave and the source does not say how often: one layer a chunk.

    Steps of such recipes hardly differ between four chunks a rank and as many as there are layers, which is where
    they lie; raises Unmodelled when layers or microbatches do not divide.
    """
    assert run.pp
    if run.vp or not rule.interleaves or "1f1b schedule" in run.other_flags.lower():
        return run.vp or 1
    microbatches = (run.global_batch_seqs or 0) // ((run.dp or 1) * (run.micro_batch_seqs or 1))
    if num_layers % run.pp or microbatches % run.pp:
        raise Unmodelled("virtual stages of the pipeline are not stated")
    return num_layers // run.pp


def _expert_tp(run: Run, rule: Framework) -> int:
    """Expert tensor parallelism as the notes say it ("ETP=4"), else as the framework's recipes set it.

    Experts that are spread over tp ranks too are not split over them.
    """
    told = re.search(r"\bETP=(\d+)\b", run.notes)
    if told:
        return int(told.group(1))
    whole, tp = rule.whole_experts, run.tp or 1
    spread_over_tp = ((run.dp or 1) * (run.cp or 1)) % (run.ep or 1) > 0
    return 1 if whole or spread_over_tp else tp


def _check_split(run: Run, plan: Plan, job: TrainingJob) -> None:
    model = job.model
    assert isinstance(model, TransformerShape)
    if plan.num_ranks != run.num_accelerators:
        raise Unmodelled("tp x pp x cp x dp is not the number of accelerators")
    if job.global_batch % (plan.dp * plan.micro_batch):
        raise Unmodelled("global batch is not a multiple of dp x micro-batch")
    if model.num_heads % plan.tp or job.sequence_length % plan.cp:
        raise Unmodelled("tp does not divide the heads, or cp the sequence")
    if plan.zero_stage == 2 and plan.pp > 1:
        raise Unmodelled("gradients sharded in every microbatch of a pipeline (ZeRO-2)")
    if model.num_layers < plan.pp * plan.vp:
        raise Unmodelled("there are fewer layers than stages")
    if plan.vp > 1 and plan.num_microbatches(job.global_batch) % plan.pp:
        raise Unmodelled("interleaved stages need microbatches in multiples of pp")
    if model.moe is None and plan.ep * plan.etp > 1:
        raise Unmodelled("experts are not described")
    if model.moe and ((plan.tp * plan.cp * plan.dp) % (plan.etp * plan.ep) or model.moe.num_experts % plan.ep):
        raise Unmodelled("ep does not divide the experts, or etp x ep the tp x cp x dp ranks of a stage")


def _cluster(run: Run, own: Own) -> Cluster:
    if not run.num_accelerators:
        raise Unmodelled("number of accelerators is not stated")
    name = accelerator_name(run.accelerator)
    if name in own:
        try:
            return catalog.expand(own[name], run.num_accelerators)
        except ValueError:
            raise Unmodelled(f"cluster {own[name].name} has fewer devices") from None
    try:
        return cluster_of(run.accelerator, run.num_accelerators, run.gpus_per_node, run.interconnect)
    except catalog.UnknownName:
        raise Unmodelled(f"accelerator {name} is not in the catalog") from None
    except ValueError:
        raise Unmodelled("devices do not fill whole nodes") from None
